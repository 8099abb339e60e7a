use super::fit::USEFUL_MESSAGE_BYTES;
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
        duplicates: Some(rows),
        also_in_train: Some(rows),
        advice: Some("a".repeat(300)),
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
            v.data.as_ref().map(|d| [&d.train, &d.eval].map(|s| s.as_ref().map(|s| SourceReport { source: String::new(), advice: None, mds: s.mds.clone().filter(|_| v.passed), ..s.clone() }))),
        );
        prop_assert_eq!(kept(&read), kept(&verdict));
        prop_assert_eq!(read.truncated, verdict.to_json().len() > MAX_VERDICT_BYTES);
    }

    #[test]
    fn reading_never_panics(text in "\\PC{0,300}") {
        let _ = Verdict::parse(&text);
    }
}
