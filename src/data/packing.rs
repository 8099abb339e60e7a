//! How many rows to pack into one sequence; pure.
//!
//! The engine draws `batch * ratio` rows a step and packs them into `batch` sequences of the context length, first
//! fit, longest first; what does not fit waits for the next step. Its own `auto` tries 20 ratios from 1 to
//! `context / 100` on idle accelerators, with a sample of the rows, at every start. This is the same search over the
//! lengths of the rows, in the order of the data, once: the largest ratio tried at which nothing is left over.

/// Ratios that are tried.
const CANDIDATES: u32 = 20;
/// Steps that are simulated for each ratio, like the engine's own search.
const STEPS: usize = 100;
/// The most rows that the search looks at: enough for every ratio at a large batch, and bounded.
pub const MAX_LENGTHS: usize = 1 << 20;

/// The packing ratio for rows of these lengths (each at most `context`), for the batch of one process.
#[must_use]
pub fn ratio(lengths: &[u32], context: u32, device_batch: u32) -> f64 {
    if context <= 100 || device_batch == 0 {
        return 1.0;
    }
    let highest = f64::from(context) / 100.0;
    let mut best = 1.0;
    let mut last_rows = 0;
    for candidate in 0..CANDIDATES {
        let ratio = 1.0 + (highest - 1.0) * f64::from(candidate) / f64::from(CANDIDATES - 1);
        let ratio = (ratio * 10.0).round_ties_even() / 10.0;
        let rows = rows_in_a_step(ratio, device_batch);
        if rows == last_rows {
            continue;
        }
        last_rows = rows;
        if !fits(lengths, context, device_batch as usize, rows) {
            break;
        }
        best = ratio;
    }
    best
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both factors are small and positive, and the engine truncates too
fn rows_in_a_step(ratio: f64, device_batch: u32) -> usize {
    (ratio * f64::from(device_batch)) as usize
}

/// Whether packing `rows` rows a step leaves nothing over in any simulated step.
fn fits(lengths: &[u32], context: u32, bins: usize, rows: usize) -> bool {
    let mut steps = lengths.chunks(rows).take(STEPS).filter(|step| step.len() >= bins).peekable();
    steps.peek().is_some() && steps.all(|step| step_fits(step, context, bins))
}

fn step_fits(step: &[u32], context: u32, bins: usize) -> bool {
    let mut sorted = step.to_vec();
    sorted.sort_unstable_by(|a, b| b.cmp(a));
    let mut filled: Vec<u32> = Vec::with_capacity(bins);
    for (index, &length) in sorted.iter().enumerate() {
        // Every sequence of the batch needs at least one row, so the last ones are not packed.
        let must_open = sorted.len() - index == bins.saturating_sub(filled.len());
        match filled.iter().position(|&used| !must_open && used + length <= context) {
            // The engine moves a sequence to the back when it has grown, and searches from the front.
            Some(at) => {
                let used = filled.remove(at);
                filled.push(used + length);
            }
            None if filled.len() == bins => return false,
            None => filled.push(length),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_tenth_of_the_context_pack_up_to_ten() {
        assert!((ratio(&[200; 4000], 2000, 8) - 10.0).abs() < 1.1);
    }

    #[test]
    fn rows_as_long_as_the_context_are_not_packed() {
        assert!((ratio(&[2048; 4000], 2048, 8) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn too_few_rows_short_contexts_and_no_rows_are_not_packed() {
        for (lengths, context, batch) in [(&[10; 7][..], 2048, 8), (&[10; 100], 100, 8), (&[], 2048, 8), (&[10; 100], 2048, 0)] {
            assert!((ratio(lengths, context, batch) - 1.0).abs() < f64::EPSILON, "{context} {batch}");
        }
    }

    #[test]
    fn one_long_row_in_a_step_lowers_the_ratio() {
        let mut lengths = vec![100; 4000];
        let even = ratio(&lengths, 1000, 4);
        for at in (0..4000).step_by(10) {
            lengths[at] = 1000;
        }
        assert!(ratio(&lengths, 1000, 4) < even);
    }
}
