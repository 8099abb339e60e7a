//! Rows of JSONL files to MDS samples: reads, judges, measures and encodes on all cores; writes only to its sink.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use super::blocks::{Block, Blocks, Cut, MAX_LINE_BYTES, lines};
use super::fingerprint::{Fingerprints, fingerprint};
use super::fitting::rounded;
use super::json::Text;
use super::mds::write_sample;
use super::ordered::{Stopped, ordered};
use super::packing::Lengths;
use super::progress::split_line;
use super::row::{Judge, Message, Row};
use super::rule::{BadRow, Broken, Rule};
use super::sink::{Sink, SinkError};
use super::tokenizer::TokenizerError;
use super::turns::{Measure, MeasureError, Measured};
use crate::api::TaskType;

/// Bad rows that are listed; all are counted.
pub const LISTED_BAD_ROWS: usize = 20;

/// Why the rows could not be read to their end.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The file cannot be read, or is compressed wrongly.
    #[error("read {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// A row cannot be tokenized.
    #[error("{file}:{line}: {source}")]
    Tokenizer {
        /// The file.
        file: String,
        /// Line of the file, from 1.
        line: u64,
        /// Why.
        source: TokenizerError,
    },
    /// A sample cannot be stored.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A thread panicked: a defect of this program or of the tokenizer.
    #[error("{file}: a thread panicked while reading rows")]
    Panicked {
        /// The file.
        file: String,
    },
}

/// What was found in the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RowsReport {
    /// Rows read, good and bad.
    pub rows: u64,
    /// Rows that break a rule.
    pub bad: u64,
    /// Good rows with nothing to train on.
    pub dropped: u64,
    /// Good rows longer than the context, dropped or not.
    pub too_long: u64,
    /// Tokens of the rows that were kept, after cutting to the context.
    pub tokens: u64,
    /// Rows that were kept.
    pub kept: u64,
    /// How long the kept rows are, after cutting to the context.
    pub lengths: Lengths,
    /// How long the rows longer than the context are, rounded.
    pub long: Lengths,
    /// What the first good rows say, dropped ones too.
    #[serde(skip)]
    pub fingerprints: Fingerprints,
}

/// Where the rows of several files are read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mark {
    /// The file, from 0.
    pub file: usize,
    /// Bytes of it before, decompressed, or rows of a table.
    pub offset: u64,
    /// Its line, from 1.
    pub line: u64,
    /// Samples from here on that are stored already.
    pub stored: u64,
}

impl Mark {
    /// The first row of all.
    pub const START: Self = Self { file: 0, offset: 0, line: 1, stored: 0 };
}

/// Where samples go.
pub struct Output<'s> {
    /// The sink.
    pub sink: &'s mut Sink,
    /// Number of the file that is read.
    pub file: usize,
    /// Samples from here on that are stored already, and are not stored again.
    pub stored: u64,
}

/// What one block gave.
struct Piece {
    offset: u64,
    line: u64,
    report: RowsReport,
    bad: Vec<BadRow>,
    samples: Vec<u8>,
    ends: Vec<usize>,
}

/// Reads rows of one task type.
pub struct RowReader<'m> {
    /// The task type.
    pub task: TaskType,
    /// The model to measure with; without one only the rules that need no model are asked.
    pub measure: Option<&'m Measure<'m>>,
    /// Threads to work on.
    pub threads: usize,
    /// Most bad rows of one block that are kept to be listed.
    pub listed: usize,
}

impl RowReader<'_> {
    /// Reads a file of lines to its end, adds what it finds to `report` and the samples of good rows to `output`. Each bad row
    /// that is kept goes to `found`, in the order of the file.
    pub fn read(
        &self,
        file: &str,
        bytes: impl Read + Send,
        report: &mut RowsReport,
        output: Option<Output<'_>>,
        found: impl FnMut(BadRow),
    ) -> Result<(), RowsError> {
        self.read_blocks(file, Blocks::new(bytes, 0, 1), report, output, found)
    }

    /// The same for what is left of a file of any kind.
    pub fn read_blocks(
        &self,
        file: &str,
        mut blocks: impl Cut + Send,
        report: &mut RowsReport,
        mut output: Option<Output<'_>>,
        mut found: impl FnMut(BadRow),
    ) -> Result<(), RowsError> {
        let encode = output.is_some();
        let done = ordered(
            self.threads,
            || blocks.next_block().map_err(|source| RowsError::Read { file: file.to_owned(), source }),
            |block| self.block(file, &block, encode),
            |piece: Piece| {
                // Bad rows mean that the run ends here, so nothing more needs to be stored.
                if let (Some(output), 0) = (&mut output, report.bad + piece.report.bad) {
                    output.store(&piece, report)?;
                }
                report.add(piece.report);
                piece.bad.into_iter().for_each(&mut found);
                Ok(())
            },
        );
        done.map_err(|stopped| match stopped {
            Stopped::Failed(error) => error,
            Stopped::Panicked => RowsError::Panicked { file: file.to_owned() },
        })
    }

    fn block(&self, file: &str, block: &Block, encode: bool) -> Result<Piece, RowsError> {
        let (offset, line) = (block.offset, block.first_line);
        let mut piece = Piece { offset, line, report: RowsReport::default(), bad: Vec::new(), samples: Vec::new(), ends: Vec::new() };
        let count_bad = |piece: &mut Piece, line, broken: Broken| {
            piece.report.rows += 1;
            piece.report.bad += 1;
            if piece.bad.len() < self.listed {
                piece.bad.push(BadRow { file: file.to_owned(), line, rule: broken.rule, message: broken.message });
            }
        };
        if block.too_long {
            let message = format!("the line is longer than {} MiB, which no row may be", MAX_LINE_BYTES >> 20);
            count_bad(&mut piece, block.first_line, Broken::new(Rule::RowTooLargeError, message));
            return Ok(piece);
        }
        let mut judge = Judge::new(self.task);
        let mut scratch = String::new();
        for (number, line) in lines(block) {
            let Ok(line) = std::str::from_utf8(line) else {
                count_bad(&mut piece, number, Broken::new(Rule::InvalidUtf8Error, "the line is not UTF-8: save the file as UTF-8"));
                continue;
            };
            let row = match judge.judge(line) {
                Ok(row) => row,
                Err(broken) => {
                    count_bad(&mut piece, number, broken);
                    continue;
                }
            };
            match self.measure.map(|measure| measure.row(row)).transpose() {
                Ok(measured) => {
                    piece.report.fingerprints.push(fingerprint(row, &mut scratch));
                    let kept = self.count(&mut piece.report, measured);
                    if encode && kept {
                        write_row(&mut piece.samples, row);
                        piece.ends.push(piece.samples.len());
                    }
                }
                Err(MeasureError::Broken(broken)) => count_bad(&mut piece, number, broken),
                Err(MeasureError::Tokenizer(source)) => {
                    return Err(RowsError::Tokenizer { file: file.to_owned(), line: number, source });
                }
            }
        }
        Ok(piece)
    }

    /// Counts a good row and says whether it is kept.
    fn count(&self, report: &mut RowsReport, measured: Option<Measured>) -> bool {
        report.rows += 1;
        let (Some(measure), Some(measured)) = (self.measure, measured) else {
            report.kept += 1;
            return true;
        };
        if measured.tokens > u64::from(measure.context) {
            report.too_long += 1;
            *report.long.entry(rounded(measured.tokens)).or_default() += 1;
        }
        if measured.trains {
            let length = measured.cut_to(measure.context);
            report.tokens += u64::from(length);
            report.kept += 1;
            *report.lengths.entry(length).or_default() += 1;
        } else {
            report.dropped += 1;
        }
        measured.trains
    }
}

impl Output<'_> {
    /// Stores the samples of a piece; `before` is what was found before it.
    fn store(&mut self, piece: &Piece, before: &RowsReport) -> Result<(), SinkError> {
        let mut start = 0;
        for (number, &end) in (0..).zip(&piece.ends) {
            let sample = &piece.samples[start..end];
            start = end;
            if self.stored > 0 {
                self.stored -= 1;
                continue;
            }
            self.sink.push(sample, || before.state(Mark { file: self.file, offset: piece.offset, line: piece.line, stored: number }))?;
        }
        Ok(())
    }
}

impl RowsReport {
    /// All that is needed to go on from `mark`: a line of JSON, then the fingerprints.
    fn state(&self, mark: Mark) -> Vec<u8> {
        let mut state = format!("{}\n", serde_json::json!({"mark": mark, "report": self})).into_bytes();
        state.extend_from_slice(&self.fingerprints.to_bytes());
        state
    }

    /// The opposite; none if these bytes are no state.
    #[must_use]
    pub fn from_state(state: &[u8]) -> Option<(Self, Mark)> {
        #[derive(Deserialize)]
        struct State {
            mark: Mark,
            report: RowsReport,
        }
        let (line, fingerprints) = split_line(state)?;
        let State { mark, report } = serde_json::from_slice(line).ok()?;
        Some((Self { fingerprints: Fingerprints::from_bytes(fingerprints)?, ..report }, mark))
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.bad += other.bad;
        self.dropped += other.dropped;
        self.too_long += other.too_long;
        self.tokens += other.tokens;
        self.kept += other.kept;
        for (own, other) in [(&mut self.lengths, other.lengths), (&mut self.long, other.long)] {
            for (length, count) in other {
                *own.entry(length).or_default() += count;
            }
        }
        self.fingerprints.extend(&other.fingerprints);
    }
}

fn write_row(out: &mut Vec<u8>, row: Row<'_, '_>) {
    match row {
        Row::Pair { prompt, response } => write_sample(out, &[prompt.value().as_bytes(), response.value().as_bytes()]),
        Row::Chat(messages) => write_sample(out, &[&conversation(messages)]),
    }
}

/// A conversation as JSON. The strings are copied as they stand in the row: they are valid JSON already.
fn conversation(messages: &[Message<'_>]) -> Vec<u8> {
    let size = messages.iter().map(|message| message.content.raw().len() + 40).sum();
    let mut json = Vec::with_capacity(size);
    for (index, message) in messages.iter().enumerate() {
        let open: &[u8] = if index == 0 { b"[{\"role\": \"" } else { b", {\"role\": \"" };
        let content: &Text<'_> = &message.content;
        for part in [open, message.role.as_str().as_bytes(), b"\", \"content\": \"", content.raw().as_bytes(), b"\"}"] {
            json.extend_from_slice(part);
        }
    }
    json.push(b']');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::template::ChatTemplate;
    use crate::data::tokenizer::{ModelTokenizer, tests::files};
    use serde_json::json;

    fn read(task: TaskType, context: Option<u32>, text: &[u8]) -> (RowsReport, Vec<BadRow>) {
        let tokenizer = ModelTokenizer::load(&files(&json!({"eos_token": "</s>"}))).unwrap();
        let template = ChatTemplate::new(&tokenizer, Some("{% for m in messages %}{{ m.content }} {% endfor %}")).unwrap();
        let measure = context.map(|context| Measure { tokenizer: &tokenizer, template: &template, context });
        let mut report = RowsReport::default();
        let reader = RowReader { task, measure: measure.as_ref(), threads: 2, listed: LISTED_BAD_ROWS };
        let mut bad = Vec::new();
        reader.read("f.jsonl", text, &mut report, None, |row| bad.push(row)).unwrap();
        (report, bad)
    }

    #[test]
    fn good_rows_are_counted_and_measured() {
        let text =
            b"{\"prompt\":\"a b\",\"response\":\"c\"}\n\n{\"prompt\":\"a b c d\",\"completion\":\"a\"}\n{\"prompt\":\"a\",\"response\":\"a b c d\"}";
        let (report, bad) = read(TaskType::InstructionFinetune, Some(4), text);
        let (lengths, long) = ([(4, 2)].into_iter().collect(), [(64, 2)].into_iter().collect());
        let fingerprints = report.fingerprints.clone();
        assert_eq!(report, RowsReport { rows: 3, bad: 0, dropped: 1, too_long: 2, tokens: 8, kept: 2, lengths, long, fingerprints });
        assert_eq!(bad, []);
    }

    #[test]
    fn every_bad_row_is_counted_and_told_in_order() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for row in 0..30_000 {
            let _ =
                writeln!(text, "{{\"prompt\": \"{}\", \"response\": \"r\"{}}}", "x".repeat(100), if row % 1000 == 7 { ", \"id\": 1" } else { "" });
        }
        let (report, bad) = read(TaskType::InstructionFinetune, None, text.as_bytes());
        assert_eq!((report.rows, report.bad, report.kept), (30_000, 30, 29_970));
        let lines: Vec<_> = bad.iter().map(|bad| bad.line).collect();
        assert_eq!(lines, (0..30).map(|thousand| thousand * 1000 + 8).collect::<Vec<_>>());
        assert!(bad[0].to_string().starts_with("f.jsonl:8: UnknownExampleTypeError: a row has"));
    }

    #[test]
    fn lines_that_are_not_utf8_or_too_long_are_bad_rows_and_the_rest_is_read() {
        let mut text = b"{\"prompt\":\"a\",\"response\":\"\xff\"}\n{\"prompt\":\"a\",\"response\":\"b\"}\n".to_vec();
        text.extend(std::iter::repeat_n(b'x', MAX_LINE_BYTES + 2));
        text.extend_from_slice(b"\n{\"prompt\":\"a\",\"response\":\"b\"}\n");
        let (report, bad) = read(TaskType::InstructionFinetune, None, &text);
        let bad: Vec<_> = bad.iter().map(|bad| (bad.line, bad.rule)).collect();
        assert_eq!((report.rows, report.kept), (4, 2));
        assert_eq!(bad, [(1, Rule::InvalidUtf8Error), (3, Rule::RowTooLargeError)]);
    }

    #[test]
    fn a_conversation_is_written_as_it_stands_in_the_row() {
        let line = r#"{"messages": [{"content": "h\u00e9 \"x\"", "role": "user"}, {"role": "assistant", "content": "ü"}]}"#;
        let mut judge = Judge::new(TaskType::ChatCompletion);
        let Row::Chat(messages) = judge.judge(line).unwrap() else { panic!("not a conversation") };
        let json = String::from_utf8(conversation(messages)).unwrap();
        assert_eq!(json, r#"[{"role": "user", "content": "h\u00e9 \"x\""}, {"role": "assistant", "content": "ü"}]"#);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()[0]["content"], "hé \"x\"");
    }

    #[test]
    fn a_file_that_breaks_off_names_itself() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let reader = RowReader { task: TaskType::ChatCompletion, measure: None, threads: 1, listed: 1 };
        let error = reader.read("f.jsonl", Failing, &mut RowsReport::default(), None, |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "read f.jsonl: gone");
    }
}
