//! Which rows are the same: a fingerprint of what each row says, for a bounded number of rows; pure.
//!
//! Two rows are the same when they have the same texts in the same places, however their JSON is written. A
//! fingerprint has 64 bits: of the most rows that are compared, two different ones look alike with a chance of 1 in
//! 2,000,000.

use twox_hash::XxHash64;

use super::json::Text;
use super::row::Row;

/// The most rows of a source that are compared: the first ones. They take 32 MiB.
pub const COMPARED_ROWS: usize = 1 << 22;

/// Fingerprints of the first rows of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fingerprints(Vec<u64>);

/// The fingerprint of one row. `scratch` is for texts with escapes; what is in it is lost.
#[must_use]
pub fn fingerprint(row: Row<'_, '_>, scratch: &mut String) -> u64 {
    match row {
        Row::Pair { prompt, response } => after(after(0, &prompt, scratch), &response, scratch),
        Row::Chat(messages) => messages.iter().fold(0, |before, message| after(before.wrapping_add(message.role as u64), &message.content, scratch)),
    }
}

/// The hash of a text after others: theirs is the seed, so no text can move over to its neighbour.
fn after(before: u64, text: &Text<'_>, scratch: &mut String) -> u64 {
    XxHash64::oneshot(before, text.unescaped(scratch).as_bytes())
}

impl Fingerprints {
    /// Adds one, unless there are enough.
    pub fn push(&mut self, fingerprint: u64) {
        if self.0.len() < COMPARED_ROWS {
            self.0.push(fingerprint);
        }
    }

    /// Adds those of later rows, as many as there is room for.
    pub fn extend(&mut self, later: &Self) {
        let room = COMPARED_ROWS - self.0.len();
        self.0.extend_from_slice(&later.0[..later.0.len().min(room)]);
    }

    /// Brings them into the order that the counts below need.
    pub fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// Rows that are the same as an earlier one. Only when sorted.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.0.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64
    }

    /// How many of these rows are also among `others`. Only when both are sorted.
    #[must_use]
    pub fn also_in(&self, others: &Self) -> u64 {
        let mut others = others.0.iter().peekable();
        let is_there = |fingerprint: &&u64| {
            while others.next_if(|other| other < fingerprint).is_some() {}
            others.peek() == Some(fingerprint)
        };
        self.0.iter().filter(is_there).count() as u64
    }

    /// Eight bytes each, little endian, in their order.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|fingerprint| fingerprint.to_le_bytes()).collect()
    }

    /// The opposite; none if these bytes are no fingerprints, or too many.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (all, rest) = bytes.as_chunks::<8>();
        (rest.is_empty() && all.len() <= COMPARED_ROWS).then(|| Self(all.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::TaskType;
    use crate::data::row::Judge;

    fn of(line: &str) -> u64 {
        let task = if line.contains("messages") { TaskType::ChatCompletion } else { TaskType::InstructionFinetune };
        fingerprint(Judge::new(task).judge(line).unwrap(), &mut String::new())
    }

    fn sorted(fingerprints: &[u64]) -> Fingerprints {
        let mut all = Fingerprints::default();
        for &one in fingerprints {
            all.push(one);
        }
        all.sort();
        all
    }

    #[test]
    fn rows_that_say_the_same_have_one_fingerprint_however_they_are_written() {
        let one = of(r#"{"prompt":"a\nb","response":"é😀"}"#);
        for same in [r#" { "completion" : "\u00e9\ud83d\ude00", "prompt": "a\u000ab" } "#, r#"{"response":"é😀","prompt":"a\nb"}"#] {
            assert_eq!(of(same), one, "{same}");
        }
        for other in [r#"{"prompt":"a\nbé","response":"😀"}"#, r#"{"prompt":"é😀","response":"a\nb"}"#, r#"{"prompt":"a\\nb","response":"é😀"}"#]
        {
            assert_ne!(of(other), one, "{other}");
        }
        let chat = |system: &str| of(&format!(r#"{{"messages":[{system}{{"role":"user","content":"a"}},{{"content":"b","role":"assistant"}}]}}"#));
        assert_ne!(chat(""), chat(r#"{"role":"system","content":""},"#));
        assert_eq!(chat(""), of(r#"{"messages":[{"content":"\u0061","role":"user"},{"role":"assistant","content":"b"}]}"#));
    }

    #[test]
    fn what_was_there_before_is_counted() {
        let (train, eval) = (sorted(&[5, 1, 5, 9, 5]), sorted(&[9, 2, 5, 9]));
        assert_eq!((train.duplicates(), eval.duplicates(), eval.also_in(&train), train.also_in(&eval)), (2, 1, 3, 4));
        assert_eq!((sorted(&[]).duplicates(), sorted(&[]).also_in(&train), train.also_in(&sorted(&[]))), (0, 0, 0));
    }

    #[test]
    fn they_are_kept_as_bytes_and_are_bounded() {
        let all = sorted(&[u64::MAX, 0, 7]);
        assert_eq!(Fingerprints::from_bytes(&all.to_bytes()), Some(all.clone()));
        assert_eq!(Fingerprints::from_bytes(&[0; 9]), None);
        assert_eq!(Fingerprints::from_bytes(&vec![0; 8 * COMPARED_ROWS + 8]), None);
        let mut full = Fingerprints(vec![1; COMPARED_ROWS - 1]);
        full.extend(&all);
        full.push(3);
        assert_eq!((full.0.len(), full.0.last()), (COMPARED_ROWS, Some(&0)));
    }
}
