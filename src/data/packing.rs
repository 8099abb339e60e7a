//! How many rows to pack into one sequence; pure.
//!
//! The engine draws `batch * ratio` rows a step and packs them into `batch` sequences of the context length, first
//! fit, longest first; what does not fit waits for the next step. Its own `auto` tries 20 ratios from 1 to
//! `context / 100` on idle accelerators, with some of the rows, at every start. This is the same search over how often
//! each length occurs, once, in one fixed random order: the largest ratio tried at which nothing ever waits.

use std::collections::BTreeMap;

/// How many rows have each length.
pub type Lengths = BTreeMap<u32, u64>;

/// Ratios that are tried.
const CANDIDATES: u32 = 20;
/// Steps that are simulated for each ratio, like the engine's own search.
const STEPS: usize = 100;
/// The most rows that are simulated; of more rows some are drawn.
const MAX_ROWS: u64 = 1 << 20;

/// The packing ratio for rows of these lengths (each at most `context`). No ratio is chosen at which the rows would
/// not fill one step of all processes: such a run would end before it began.
#[must_use]
pub fn ratio(lengths: &Lengths, context: u32, global_batch: u32, processes: u32) -> f64 {
    let processes = processes.max(1);
    let device_batch = global_batch / processes;
    if context <= 100 || device_batch == 0 {
        return 1.0;
    }
    let rows = draw(lengths);
    let rows_of_a_process = lengths.values().sum::<u64>() / u64::from(processes);
    let highest = f64::from(context) / 100.0;
    let mut best = 1.0;
    let mut last_step = 0;
    for candidate in 0..CANDIDATES {
        let ratio = 1.0 + (highest - 1.0) * f64::from(candidate) / f64::from(CANDIDATES - 1);
        let ratio = (ratio * 10.0).round_ties_even() / 10.0;
        let step = rows_in_a_step(ratio, device_batch);
        if step == last_step {
            continue;
        }
        last_step = step;
        if step as u64 > rows_of_a_process || !fits(&rows, context, device_batch as usize, step) {
            break;
        }
        best = ratio;
    }
    best
}

/// The rows in an order that is random but always the same: training shuffles them too.
fn draw(lengths: &Lengths) -> Vec<u32> {
    let total: u64 = lengths.values().sum();
    let mut random = Random(0x5eed);
    if total > MAX_ROWS {
        let mut sums: Vec<(u64, u32)> = Vec::with_capacity(lengths.len());
        let mut sum = 0;
        for (&length, &count) in lengths {
            sum += count;
            sums.push((sum, length));
        }
        let one = |_| {
            let at = random.below(total);
            sums[sums.partition_point(|(sum, _)| *sum <= at)].1
        };
        return (0..MAX_ROWS).map(one).collect();
    }
    let mut rows: Vec<u32> = lengths.iter().flat_map(|(&length, &count)| std::iter::repeat_n(length, usize::try_from(count).unwrap_or(0))).collect();
    for last in (1..rows.len()).rev() {
        let other = usize::try_from(random.below(last as u64 + 1)).unwrap_or(last);
        rows.swap(last, other);
    }
    rows
}

/// splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // both factors are small and positive, and the engine truncates too
fn rows_in_a_step(ratio: f64, device_batch: u32) -> usize {
    (ratio * f64::from(device_batch)) as usize
}

/// Whether packing `step` rows a step leaves nothing over in any simulated step.
fn fits(rows: &[u32], context: u32, bins: usize, step: usize) -> bool {
    let mut steps = rows.chunks(step).take(STEPS).filter(|step| step.len() >= bins).peekable();
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

    fn lengths(counts: &[(u32, u64)]) -> Lengths {
        counts.iter().copied().collect()
    }

    #[test]
    fn rows_of_a_tenth_of_the_context_pack_up_to_ten() {
        assert!((ratio(&lengths(&[(200, 4000)]), 2000, 8, 1) - 10.0).abs() < 1.1);
    }

    #[test]
    fn rows_as_long_as_the_context_are_not_packed() {
        assert!((ratio(&lengths(&[(2048, 4000)]), 2048, 8, 1) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn too_few_rows_short_contexts_and_no_rows_are_not_packed() {
        for (counts, context, batch) in [(&[(10, 7)][..], 2048, 8), (&[(10, 100)], 100, 8), (&[], 2048, 8), (&[(10, 100)], 2048, 0)] {
            assert!((ratio(&lengths(counts), context, batch, 1) - 1.0).abs() < f64::EPSILON, "{context} {batch}");
        }
    }

    #[test]
    fn some_long_rows_lower_the_ratio() {
        assert!(ratio(&lengths(&[(100, 3600), (1000, 400)]), 1000, 4, 1) < ratio(&lengths(&[(100, 4000)]), 1000, 4, 1));
    }

    #[test]
    fn the_ratio_of_very_many_rows_is_that_of_some_of_them() {
        let (some, many) = (lengths(&[(100, 9_000), (400, 1_000)]), lengths(&[(100, 9_000_000), (400, 1_000_000)]));
        assert!((ratio(&some, 2000, 8, 1) - ratio(&many, 2000, 8, 1)).abs() < 2.2);
    }

    #[test]
    fn one_step_of_all_processes_is_always_left() {
        let short = lengths(&[(10, 64)]);
        assert!(ratio(&short, 2000, 32, 4) <= 2.0);
        assert!((ratio(&lengths(&[(10, 32)]), 2000, 32, 4) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_order_is_random_but_always_the_same() {
        let rows = draw(&lengths(&[(1, 50), (2, 50)]));
        assert_eq!((rows.len(), rows.iter().filter(|&&row| row == 1).count()), (100, 50));
        assert_eq!(rows, draw(&lengths(&[(1, 50), (2, 50)])));
        assert!(rows[..50].contains(&2));
    }
}
