//! How many rows fit into the context length, and which length more of them would fit into; pure.

use super::packing::Lengths;

/// With a larger share of rows than this that are longer than the context, advice is given.
const ADVISED_SHARE: f64 = 0.05;
/// Lengths beyond the context are rounded up to a multiple of this, which bounds how many there are.
const STEP: u64 = 64;

/// The length that a row beyond the context is counted under.
#[must_use]
pub fn rounded(tokens: u64) -> u32 {
    u32::try_from(tokens.div_ceil(STEP) * STEP).unwrap_or(u32::MAX)
}

/// What to do about rows that are longer than the context: a sentence, or nothing if they are few. `rows` are all good rows, `long` how
/// many of them are longer, by their rounded length.
#[must_use]
pub fn advice(rows: u64, long: &Lengths, context: u32) -> Option<String> {
    let too_long: u64 = long.values().sum();
    #[allow(clippy::cast_precision_loss)] // a share
    let share = too_long as f64 / rows.max(1) as f64;
    if share <= ADVISED_SHARE {
        return None;
    }
    let keeps = |percent: u64| {
        // At most this many rows may be longer.
        let mut left = rows * (100 - percent) / 100;
        for (&length, &count) in long.iter().rev() {
            match left.checked_sub(count) {
                Some(rest) => left = rest,
                None => return length,
            }
        }
        context
    };
    let (most, nearly_all) = (keeps(95), keeps(99));
    let lengths = if most == nearly_all { format!("{most} would keep 99 %") } else { format!("{most} would keep 95 % and {nearly_all} 99 %") };
    Some(format!(
        "{:.1} % of {rows} rows are longer than contextLength {context} and are cut or dropped; a contextLength of {lengths} of the rows whole",
        share * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(rows: u64, long: &[(u32, u64)]) -> Option<String> {
        advice(rows, &long.iter().copied().collect(), 256)
    }

    #[test]
    fn few_long_rows_need_no_advice() {
        for (rows, long) in [(0, &[][..]), (100, &[(512, 5)]), (1, &[])] {
            assert_eq!(told(rows, long), None);
        }
    }

    #[test]
    fn many_long_rows_name_their_share_and_the_lengths_that_keep_most() {
        let start = "of 100 rows are longer than contextLength 256 and are cut or dropped; a contextLength of";
        let expected = format!("12.0 % {start} 384 would keep 95 % and 1024 99 % of the rows whole");
        assert_eq!(told(100, &[(320, 5), (384, 3), (1024, 3), (4096, 1)]).unwrap(), expected);
        let expected = format!("100.0 % {start} 512 would keep 99 % of the rows whole");
        assert_eq!(told(100, &[(512, 100)]).unwrap(), expected);
        // Of few rows no one may be longer.
        assert!(told(2, &[(320, 1), (8192, 1)]).unwrap().ends_with("8192 would keep 99 % of the rows whole"));
    }

    #[test]
    fn lengths_are_rounded_up_and_never_overflow() {
        assert_eq!([1, 64, 65, u64::from(u32::MAX)].map(rounded), [64, 64, 128, u32::MAX]);
    }
}
