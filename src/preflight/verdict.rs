//! The verdict of preflight: what it says, how it is cut to fit, which exit code it means; pure, no I/O.
//!
//! Preflight writes it as its termination message and the operator reads it back from the pod's status, so both
//! sides share these types. To the operator it is foreign input: a run's pod may write anything there.

use serde::{Deserialize, Serialize};

use crate::api::status::{FailureClass, Stage};

/// Longest termination message that preflight writes. The kubelet keeps the last 4,096 bytes of one.
pub const MAX_VERDICT_BYTES: usize = 3500;
/// Longest termination message that is read.
pub const MAX_READ_BYTES: usize = 4096;
/// Most checks that are read.
const MAX_CHECKS: usize = 32;
/// A message is not cut below this while something less useful can still be dropped.
const USEFUL_MESSAGE_BYTES: usize = 200;

/// What preflight found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Version of this format: always 1.
    pub version: u32,
    /// Always `preflight`.
    pub stage: Stage,
    /// What the verdict is bound to.
    pub spec_hash: String,
    /// True only if every check passed.
    pub passed: bool,
    /// One entry a check, in the order of [`CheckName`].
    pub checks: Vec<Check>,
    /// The data report; absent when the data were not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<DataReport>,
    /// The tracker run that all attempts log to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlflow: Option<MlflowRun>,
    /// True if something was cut to fit; the full report lies in the save folder.
    #[serde(default)]
    pub truncated: bool,
}

/// The checks, in the order in which they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CheckName {
    /// Every Secret that the run names is there and has its keys.
    Secrets,
    /// The save folder can be written, read back and deleted from.
    SaveFolder,
    /// The run's folder belongs to no other run.
    Claim,
    /// The base model's files are complete.
    Model,
    /// The training data can be read.
    TrainData,
    /// The evaluation data can be read.
    EvalData,
    /// The checkpoint to start from is there.
    CustomWeights,
    /// The experiment exists or was made.
    Mlflow,
    /// The model can be registered.
    Registry,
    /// The project can be logged to.
    Wandb,
    /// Every training row is good.
    TrainRows,
    /// Every evaluation row is good.
    EvalRows,
}

impl CheckName {
    /// The name as reported.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "Secrets",
            Self::SaveFolder => "SaveFolder",
            Self::Claim => "Claim",
            Self::Model => "Model",
            Self::TrainData => "TrainData",
            Self::EvalData => "EvalData",
            Self::CustomWeights => "CustomWeights",
            Self::Mlflow => "Mlflow",
            Self::Registry => "Registry",
            Self::Wandb => "Wandb",
            Self::TrainRows => "TrainRows",
            Self::EvalRows => "EvalRows",
        }
    }
}

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// Which check.
    pub name: CheckName,
    /// Whether it passed.
    pub passed: bool,
    /// Whose fault a failure is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<FailureClass>,
    /// Stable CamelCase word for the failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Field of the run that the failure is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What happened and what to do, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What was found in the data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataReport {
    /// The training data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<SourceReport>,
    /// The evaluation data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<SourceReport>,
    /// Samples to pack into one sequence; 1 when packing is off or the data are text.
    pub packing_ratio: f64,
    /// True if all converted data were there already.
    #[serde(default)]
    pub cached: bool,
}

/// What was found in one source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SourceReport {
    /// The place that was read; empty when cut.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Identity of the bytes that were read.
    pub digest: String,
    /// Rows (or text files) read.
    pub rows: u64,
    /// Tokens by the model's own tokenizer in what was kept, after cutting to the context length.
    pub tokens: u64,
    /// Rows longer than the context length, kept or not.
    pub too_long: u64,
    /// Rows left out because nothing in them would train.
    pub dropped: u64,
    /// Rows that break a rule.
    pub bad: u64,
    /// Samples written.
    pub samples: u64,
    /// Folder of the converted data; absent when there are bad rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mds: Option<String>,
}

/// The tracker run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MlflowRun {
    /// Experiment id.
    pub experiment_id: String,
    /// Run id.
    pub run_id: String,
    /// Where to look; absent when cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// Why a termination message is not a verdict.
#[derive(Debug, thiserror::Error)]
pub enum VerdictError {
    /// Longer than any message that a kubelet keeps.
    #[error("the termination message has {0} bytes, at most {MAX_READ_BYTES} are read")]
    TooLarge(usize),
    /// Not JSON, or not this shape.
    #[error("the termination message is not a preflight verdict: {0}")]
    Shape(#[from] serde_json::Error),
    /// It contradicts itself or has an impossible value.
    #[error("the preflight verdict is not believable: {0}")]
    Nonsense(&'static str),
}

impl Verdict {
    /// Judges the checks; they are put into the reported order.
    #[must_use]
    pub fn new(spec_hash: String, mut checks: Vec<Check>, data: Option<DataReport>, mlflow: Option<MlflowRun>) -> Self {
        checks.sort_by_key(|check| check.name);
        let passed = checks.iter().all(|check| check.passed);
        Self { version: 1, stage: Stage::Preflight, spec_hash, passed, checks, data, mlflow, truncated: false }
    }

    /// The first check that failed, which decides the exit code.
    #[must_use]
    pub fn first_failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| !check.passed)
    }

    /// Exit code of the stage: that of the first failed check, 0 without one.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.first_failure().map_or(0, Check::exit_code)
    }

    /// The verdict as JSON of at most [`MAX_VERDICT_BYTES`].
    ///
    /// What does not fit is cut in this order, until it fits: the longest message is halved again and again, down
    /// to 200 bytes each; the sources (the run's spec has them) are left out; the tracker's URL is left out; the
    /// places of converted data are left out if a check failed, for then nothing trains on them; the messages, then
    /// the fields, of all failed checks but the first are left out; the first message is left out.
    /// Reasons, classes and counts always stay.
    #[must_use]
    pub fn fit(&self) -> String {
        let mut text = self.to_json();
        let mut cut = self.clone();
        cut.truncated = true;
        let steps: [fn(&mut Self) -> bool; 7] = [
            |v| v.halve_longest_message(),
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

    /// The whole verdict as JSON.
    ///
    /// # Panics
    /// Never: a verdict has only string keys.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a verdict has only string keys")
    }

    /// Reads a termination message, believing nothing: bounded, no control characters, no contradictions.
    pub fn parse(text: &str) -> Result<Self, VerdictError> {
        if text.len() > MAX_READ_BYTES {
            return Err(VerdictError::TooLarge(text.len()));
        }
        let mut verdict: Self = serde_json::from_str(text)?;
        if verdict.version != 1 || verdict.stage != Stage::Preflight {
            return Err(VerdictError::Nonsense("it is not version 1 of stage preflight"));
        }
        if verdict.checks.is_empty() || verdict.checks.len() > MAX_CHECKS {
            return Err(VerdictError::Nonsense("it has no checks, or too many"));
        }
        if !verdict.checks.windows(2).all(|pair| pair[0].name < pair[1].name) {
            return Err(VerdictError::Nonsense("its checks are not in order"));
        }
        if verdict.passed != verdict.checks.iter().all(|check| check.passed) {
            return Err(VerdictError::Nonsense("it contradicts its own checks"));
        }
        for check in &mut verdict.checks {
            if check.passed == check.class.is_some() || check.passed == check.reason.is_some() {
                return Err(VerdictError::Nonsense("a failed check has no class or reason, or a passed one has"));
            }
            if check.reason.as_deref().is_some_and(|reason| !is_reason(reason)) {
                return Err(VerdictError::Nonsense("a reason is not one CamelCase word"));
            }
            for text in [&mut check.field, &mut check.message].into_iter().flatten() {
                clean(text);
            }
        }
        clean(&mut verdict.spec_hash);
        if verdict.data.as_ref().is_some_and(|data| !(1.0..=1_000_000.0).contains(&data.packing_ratio)) {
            return Err(VerdictError::Nonsense("its packing ratio is below 1"));
        }
        for source in verdict.sources() {
            clean(&mut source.source);
            clean(&mut source.digest);
            if let Some(mds) = &mut source.mds {
                clean(mds);
            }
        }
        if let Some(mlflow) = &mut verdict.mlflow {
            clean(&mut mlflow.experiment_id);
            clean(&mut mlflow.run_id);
            if let Some(url) = &mut mlflow.url {
                clean(url);
            }
        }
        Ok(verdict)
    }

    fn sources(&mut self) -> impl Iterator<Item = &mut SourceReport> {
        self.data.iter_mut().flat_map(|data| [&mut data.train, &mut data.eval]).flatten()
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

impl Check {
    /// A check that passed.
    #[must_use]
    pub fn pass(name: CheckName) -> Self {
        Self { name, passed: true, class: None, reason: None, field: None, message: None }
    }

    /// Exit code that this check means on its own.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.passed {
            return 0;
        }
        match (self.class, self.reason.as_deref()) {
            (_, Some("SaveFolderInUse")) => 13,
            (_, Some("SecretMissing")) => 31,
            (_, Some("SecretKeyMissing")) => 32,
            (Some(FailureClass::DataError), _) => 20,
            (Some(FailureClass::CredentialError), _) => 30,
            (Some(FailureClass::OutOfMemory), _) => 41,
            (Some(FailureClass::Diverged), _) => 50,
            (Some(FailureClass::Preempted), _) => 61,
            (Some(FailureClass::Infrastructure | FailureClass::NodeLost | FailureClass::Stalled), _) => 70,
            (Some(FailureClass::UserError) | None, _) => 10,
        }
    }
}

/// Whether a word can be the reason of a Kubernetes condition.
fn is_reason(word: &str) -> bool {
    word.len() <= 64 && word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Control characters could forge lines in a terminal or a log.
fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn failed(name: CheckName, class: FailureClass, reason: &str, message: &str) -> Check {
        Check {
            name,
            passed: false,
            class: Some(class),
            reason: Some(reason.into()),
            field: Some("spec.saveFolder".into()),
            message: Some(message.into()),
        }
    }

    #[test]
    fn a_verdict_that_fits_is_written_whole() {
        let verdict = Verdict::new("h".into(), vec![Check::pass(CheckName::Secrets)], None, None);
        assert_eq!(
            verdict.fit(),
            r#"{"version":1,"stage":"preflight","specHash":"h","passed":true,"checks":[{"name":"Secrets","passed":true}],"truncated":false}"#
        );
        assert_eq!(Verdict::parse(&verdict.fit()).unwrap(), verdict);
    }

    #[test]
    fn the_exit_code_is_that_of_the_first_failed_check_in_the_reported_order() {
        let credential = failed(CheckName::SaveFolder, FailureClass::CredentialError, "AccessDenied", "m");
        let missing = failed(CheckName::Secrets, FailureClass::CredentialError, "SecretMissing", "m");
        let data = failed(CheckName::TrainRows, FailureClass::DataError, "BadRows", "m");
        let code = |checks: &[&Check]| Verdict::new("h".into(), checks.iter().copied().cloned().collect(), None, None).exit_code();
        assert_eq!(code(&[&data, &credential, &missing]), 31);
        assert_eq!(code(&[&data, &credential]), 30);
        assert_eq!(code(&[&data]), 20);
        assert_eq!(code(&[&Check::pass(CheckName::Secrets)]), 0);
        for (class, reason, expected) in [
            (FailureClass::CredentialError, "SecretKeyMissing", 32),
            (FailureClass::UserError, "SaveFolderInUse", 13),
            (FailureClass::UserError, "ObjectMissing", 10),
            (FailureClass::Infrastructure, "Unreachable", 70),
        ] {
            assert_eq!(code(&[&failed(CheckName::Claim, class, reason, "m")]), expected);
        }
    }

    #[test]
    fn the_longest_message_is_cut_first_and_short_ones_stay() {
        let checks = vec![
            failed(CheckName::SaveFolder, FailureClass::CredentialError, "AccessDenied", "short"),
            failed(CheckName::TrainRows, FailureClass::DataError, "BadRows", &"é".repeat(4000)),
        ];
        let text = Verdict::new("h".into(), checks, None, None).fit();
        assert!(text.len() <= MAX_VERDICT_BYTES);
        let read = Verdict::parse(&text).unwrap();
        assert!(read.truncated);
        assert_eq!(read.checks[0].message.as_deref(), Some("short"));
        let cut = read.checks[1].message.as_deref().unwrap();
        assert!(cut.ends_with("é…") && cut.len() >= USEFUL_MESSAGE_BYTES, "{cut}");
    }

    #[test]
    fn a_verdict_that_contradicts_itself_is_refused() {
        for (text, why) in [
            (r#"{"version":2,"stage":"preflight","specHash":"h","passed":true,"checks":[{"name":"Claim","passed":true}]}"#, "version"),
            (r#"{"version":1,"stage":"preflight","specHash":"h","passed":true,"checks":[]}"#, "no checks"),
            (r#"{"version":1,"stage":"preflight","specHash":"h","passed":false,"checks":[{"name":"Claim","passed":true}]}"#, "contradicts"),
            (r#"{"version":1,"stage":"preflight","specHash":"h","passed":false,"checks":[{"name":"Claim","passed":false}]}"#, "no class"),
            (
                r#"{"version":1,"stage":"preflight","specHash":"h","passed":true,"checks":[{"name":"Wandb","passed":true},{"name":"Claim","passed":true}]}"#,
                "order",
            ),
            (
                r#"{"version":1,"stage":"preflight","specHash":"h","passed":true,"checks":[{"name":"Claim","passed":true}],"data":{"packingRatio":0.5}}"#,
                "ratio",
            ),
            (
                r#"{"version":1,"stage":"preflight","specHash":"h","passed":false,"checks":[{"name":"Claim","passed":false,"class":"UserError","reason":"a b"}]}"#,
                "CamelCase",
            ),
            (r#"{"version":1,"stage":"train"}"#, "not a preflight verdict"),
            (r#"{"version":1,"stage":"train","specHash":"h","passed":true,"checks":[]}"#, "stage preflight"),
            ("Traceback (most recent call last)", "not a preflight verdict"),
        ] {
            let error = Verdict::parse(text).unwrap_err().to_string();
            assert!(error.contains(why), "{why}: {error}");
        }
        assert!(matches!(Verdict::parse(&" ".repeat(5000)), Err(VerdictError::TooLarge(5000))));
        assert!(Verdict::parse(&"[".repeat(4000)).is_err());
    }

    #[test]
    fn control_characters_do_not_survive_reading() {
        let mut check = failed(CheckName::Claim, FailureClass::UserError, "SaveFolderInUse", "a\n\u{1b}[31mb");
        check.field = None;
        let read = Verdict::parse(&Verdict::new("h".into(), vec![check], None, None).fit()).unwrap();
        assert_eq!(read.checks[0].message.as_deref(), Some("a  [31mb"));
    }

    const NAMES: [CheckName; 12] = [
        CheckName::Secrets,
        CheckName::SaveFolder,
        CheckName::Claim,
        CheckName::Model,
        CheckName::TrainData,
        CheckName::EvalData,
        CheckName::CustomWeights,
        CheckName::Mlflow,
        CheckName::Registry,
        CheckName::Wandb,
        CheckName::TrainRows,
        CheckName::EvalRows,
    ];

    fn any_verdict() -> impl Strategy<Value = Verdict> {
        let check = prop::option::of((0..2usize, "\\PC{0,900}|[\"\\\\\n]{0,900}"));
        let place = "[a-z:/.-]{1,1024}";
        let source = (place, prop::option::of(place), any::<u64>()).prop_map(|(source, mds, rows)| SourceReport {
            source,
            digest: "d".repeat(64),
            rows,
            tokens: rows,
            too_long: rows,
            dropped: rows,
            bad: rows,
            samples: rows,
            mds: mds.map(|mds| format!("{mds}/mds/{}", "k".repeat(64))),
        });
        let data = prop::option::of((prop::option::of(source.clone()), prop::option::of(source), 1.0..99.0f64));
        let mlflow = prop::option::of((place, Just("e".repeat(64)), Just("r".repeat(64))));
        (prop::collection::vec(check, NAMES.len()), data, mlflow).prop_map(|(checks, data, mlflow)| {
            let checks = NAMES.into_iter().zip(checks).map(|(name, failure)| match failure {
                None => Check::pass(name),
                Some((class, message)) => {
                    let class = [FailureClass::UserError, FailureClass::CredentialError][class];
                    Check { field: Some("spec.experimentTracker.mlflow.modelRegistryPath".into()), ..failed(name, class, "SplitMissing", &message) }
                }
            });
            Verdict::new(
                "h".repeat(64),
                checks.collect(),
                data.map(|(train, eval, packing_ratio)| DataReport { train, eval, packing_ratio, cached: false }),
                mlflow.map(|(url, experiment_id, run_id)| MlflowRun { experiment_id, run_id, url: Some(url) }),
            )
        })
    }

    proptest! {
        #[test]
        fn every_verdict_fits_and_keeps_what_the_operator_acts_on(verdict in any_verdict()) {
            let text = verdict.fit();
            prop_assert!(text.len() <= MAX_VERDICT_BYTES, "{} bytes", text.len());
            let read = Verdict::parse(&text).unwrap();
            let kept = |v: &Verdict| (
                v.passed, v.exit_code(), v.spec_hash.clone(),
                v.checks.iter().map(|c| (c.name, c.passed, c.class, c.reason.clone())).collect::<Vec<_>>(),
                v.mlflow.as_ref().map(|m| (m.experiment_id.clone(), m.run_id.clone())),
                v.data.as_ref().map(|d| [&d.train, &d.eval].map(|s| s.as_ref().map(|s| SourceReport { source: String::new(), mds: s.mds.clone().filter(|_| v.passed), ..s.clone() }))),
            );
            prop_assert_eq!(kept(&read), kept(&verdict));
            prop_assert_eq!(read.truncated, verdict.to_json().len() > MAX_VERDICT_BYTES);
        }

        #[test]
        fn reading_never_panics(text in "\\PC{0,300}") {
            let _ = Verdict::parse(&text);
        }
    }
}
