//! How a verdict is cut to fit into a termination message; pure.

use super::{Check, Verdict};

/// Longest termination message that preflight writes. The kubelet keeps the last 4,096 bytes of one.
pub const MAX_VERDICT_BYTES: usize = 3500;
/// A message is not cut below this while something less useful can still be dropped.
pub(super) const USEFUL_MESSAGE_BYTES: usize = 200;

impl Verdict {
    /// The verdict as JSON of at most [`MAX_VERDICT_BYTES`].
    ///
    /// What does not fit is cut in this order, until it fits: the longest message is halved again and again, down
    /// to 200 bytes each; the advice, then the sources (the run's spec has them), are left out; the tracker's URL is left out; the
    /// places of converted data are left out if a check failed, for then nothing trains on them; the messages, then
    /// the fields, of all failed checks but the first are left out; the first message is left out.
    /// Reasons, classes and counts always stay.
    #[must_use]
    pub fn fit(&self) -> String {
        let mut text = self.to_json();
        let mut cut = self.clone();
        cut.truncated = true;
        let steps: [fn(&mut Self) -> bool; 8] = [
            |v| v.halve_longest_message(),
            |v| v.sources().filter_map(|source| source.advice.take()).count() > 0,
            |v| v.sources().filter(|s| !s.source.is_empty()).map(|s| s.source.clear()).count() > 0,
            |v| v.mlflow.as_mut().is_some_and(|mlflow| mlflow.url.take().is_some()),
            |v| !v.passed && v.sources().filter_map(|source| source.mds.take()).count() > 0,
            |v| v.other_failures().filter_map(|check| check.message.take()).count() > 0,
            |v| v.other_failures().filter_map(|check| check.field.take()).count() > 0,
            |v| v.checks.iter_mut().filter_map(|check| check.message.take()).count() > 0,
        ];
        let mut steps = steps.into_iter().peekable();
        while text.len() > MAX_VERDICT_BYTES {
            let Some(step) = steps.peek() else { break };
            if step(&mut cut) {
                text = cut.to_json();
            } else {
                steps.next();
            }
        }
        text
    }

    fn other_failures(&mut self) -> impl Iterator<Item = &mut Check> {
        self.checks.iter_mut().filter(|check| !check.passed).skip(1)
    }

    fn halve_longest_message(&mut self) -> bool {
        let longest = self.checks.iter_mut().filter_map(|check| check.message.as_mut()).max_by_key(|message| message.len());
        match longest {
            Some(message) if message.len() > USEFUL_MESSAGE_BYTES => {
                let keep = (message.len() / 2).max(USEFUL_MESSAGE_BYTES - '…'.len_utf8());
                message.truncate((0..=keep).rev().find(|&end| message.is_char_boundary(end)).unwrap_or(0));
                message.push('…');
                true
            }
            _ => false,
        }
    }
}
