//! `trainingDuration` and `checkpointEvery`: `<integer><unit>`, read once, everywhere the same.

use std::fmt;
use std::str::FromStr;

/// The schema's pattern for a duration. Digits may be separated by `_`.
pub const PATTERN: &str = "^[1-9][0-9_]{0,14}(ep|ba|tok)$";

/// What a training duration counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Passes over the training data.
    Epoch,
    /// Optimizer steps.
    Batch,
    /// Tokens that are not padding.
    Token,
}

/// A training duration: a positive count of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrainingDuration {
    /// At least 1.
    pub count: u64,
    /// What is counted.
    pub unit: Unit,
}

/// The text is not `<integer><unit>`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration: write a whole number and ep (epochs), ba (batches) or tok (tokens), for example 3ep or 1_000_000tok")]
pub struct NotADuration(pub String);

impl FromStr for TrainingDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        let error = || NotADuration(text.chars().take(64).collect());
        let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '_').ok_or_else(error)?;
        let (digits, unit) = text.split_at(digits_end);
        let unit = match unit {
            "ep" => Unit::Epoch,
            "ba" => Unit::Batch,
            "tok" => Unit::Token,
            _ => return Err(error()),
        };
        match digits.replace('_', "").parse() {
            Ok(count) if count > 0 && digits.starts_with(|c: char| c.is_ascii_digit()) => Ok(Self { count, unit }),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for TrainingDuration {
    /// The engine's spelling, without separators.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Epoch => "ep",
            Unit::Batch => "ba",
            Unit::Token => "tok",
        };
        write!(f, "{}{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_read_and_not_written() {
        assert_eq!("1_000_000tok".parse(), Ok(TrainingDuration { count: 1_000_000, unit: Unit::Token }));
        assert_eq!("1_000_000tok".parse::<TrainingDuration>().map(|d| d.to_string()), Ok("1000000tok".to_owned()));
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_its_text() {
        for text in ["10 epochs", "0ep", "ep", "_1ep", "1", "1.5ep", "-1ba", "99999999999999999999ep", ""] {
            assert_eq!(text.parse::<TrainingDuration>(), Err(NotADuration(text.to_owned())), "{text}");
        }
    }
}
