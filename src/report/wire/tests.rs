//! Bodies as trainers send them, and as nobody should.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const OUTPUTS: &str = "s3://out/team-a/my-run";

fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn post(fields: &Value) -> Report {
    let mut body = json!({"attempt": 1, "start": "a1b2", "sequence": 17});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    own(body.to_string().as_bytes(), OUTPUTS, now()).unwrap()
}

fn nothing_but_identity() -> Report {
    Report {
        attempt: 1,
        start: "a1b2".to_owned(),
        sequence: 17,
        waiting_for: None,
        progress: Progress::default(),
        events: Vec::new(),
        checkpoints: Vec::new(),
    }
}

#[test]
fn a_full_post_of_the_contract_is_read_whole() {
    let report = post(&json!({
        "waitingFor": {"what": "weights", "percent": 40},
        "progress": {"step": 12, "totalSteps": 60, "epoch": 0, "tokens": 3000, "totalTokens": null, "loss": 5.1, "learningRate": 0.001, "gradientNorm": 1.2,
                     "tokensPerSecond": 800.0, "evalMetrics": {"LanguageCrossEntropy": 4.0, "LanguagePerplexity": 54.0}, "estimatedRemainingSeconds": 40},
        "events": [{"type": "MODEL_INITIALIZED", "time": "2026-01-01T00:00:00Z", "message": "hello"}],
        "checkpoints": [{"step": 20, "epoch": 1, "time": "2026-01-01T01:00:00Z", "uri": "s3://out/team-a/my-run/checkpoints/ep1-ba20-rank0.pt", "sizeBytes": 1, "kind": "composer"}]
    }));
    assert_eq!(
        report,
        Report {
            waiting_for: Some(WaitingFor { what: "weights".to_owned(), percent: Some(40) }),
            progress: Progress {
                percent: None,
                step: Some(12),
                total_steps: Some(60),
                epoch: Some(0),
                tokens: Some(3000),
                total_tokens: None,
                loss: Some(5.1),
                learning_rate: Some(0.001),
                gradient_norm: Some(1.2),
                tokens_per_second: Some(800.0),
                eval_metrics: [("LanguageCrossEntropy".to_owned(), 4.0), ("LanguagePerplexity".to_owned(), 54.0)].into(),
                estimated_remaining_seconds: Some(40),
            },
            events: vec![Event { type_: EventType::ModelInitialized, time: at("2026-01-01T00:00:00Z"), sent: at("2026-01-01T00:00:00Z") }],
            checkpoints: vec![Checkpoint {
                step: 20,
                epoch: Some(1),
                time: at("2026-01-01T01:00:00Z"),
                uri: "s3://out/team-a/my-run/checkpoints/ep1-ba20-rank0.pt".to_owned(),
                size_bytes: Some(1),
                kind: CheckpointKind::Composer,
            }],
            ..nothing_but_identity()
        }
    );
}

#[test]
fn a_post_of_hugging_face_trainer_is_read_whole() {
    let body = json!({"trainerStatus": {"lastUpdatedTime": "2026-01-01T00:00:00Z", "progressPercentage": 42, "estimatedRemainingSeconds": 90, "metrics": [
        {"name": "loss", "value": "5.10"}, {"name": "grad_norm", "value": "1.5"}, {"name": "learning_rate", "value": "5e-05"}, {"name": "entropy", "value": "2.5"},
        {"name": "mean_token_accuracy", "value": "0.25"}, {"name": "num_tokens", "value": "1200.0"}, {"name": "epoch", "value": "1.26"}, {"name": "eval_loss", "value": "4.5"},
        {"name": "current_step", "value": "21"}, {"name": "total_steps", "value": "50"}, {"name": "current_epoch", "value": "1"}]}});
    assert_eq!(
        kubeflow(body.to_string().as_bytes(), 3, "0f0e-uid", now()).unwrap(),
        Report {
            attempt: 3,
            start: "0f0e-uid".to_owned(),
            sequence: now().as_microsecond(),
            waiting_for: None,
            progress: Progress {
                percent: Some(42),
                step: Some(21),
                total_steps: Some(50),
                epoch: Some(1),
                tokens: Some(1200),
                total_tokens: None,
                loss: Some(5.1),
                learning_rate: Some(5e-5),
                gradient_norm: Some(1.5),
                tokens_per_second: None,
                eval_metrics: [("eval_loss".to_owned(), 4.5)].into(),
                estimated_remaining_seconds: Some(90),
            },
            events: Vec::new(),
            checkpoints: Vec::new(),
        }
    );
}

#[test]
fn null_unknown_and_missing_fields_are_the_same() {
    let report = post(&json!({"waitingFor": null, "progress": null, "events": null, "checkpoints": null, "future": {"deep": [1]}}));
    assert_eq!(report, nothing_but_identity());
    assert_eq!(post(&json!({})), nothing_but_identity());
}

#[test]
fn numbers_that_make_no_sense_are_absent_and_huge_ones_are_cut() {
    let report = post(&json!({"progress": {
        "step": -1, "totalSteps": 1e300, "epoch": "NaN", "tokens": "inf", "totalTokens": [1], "loss": -1e300, "learningRate": -0.1, "gradientNorm": true,
        "tokensPerSecond": {"a": 1}, "evalMetrics": {"a": 1e308, "b": "nan", "c": null}, "estimatedRemainingSeconds": 1e18}}));
    assert_eq!(
        report.progress,
        Progress {
            total_steps: Some(9_007_199_254_740_991),
            loss: Some(-1e30),
            eval_metrics: [("a".to_owned(), 1e30)].into(),
            estimated_remaining_seconds: Some(315_360_000),
            ..Progress::default()
        }
    );
}

#[test]
fn a_post_without_identity_is_refused_and_the_words_hold_nothing_of_it() {
    let refused = |body: &str| own(body.as_bytes(), OUTPUTS, now()).unwrap_err();
    assert_eq!(refused(r#"{"start": "a", "sequence": 1}"#), MessageError::Attempt);
    assert_eq!(refused(r#"{"attempt": -1, "start": "a", "sequence": 1}"#), MessageError::Attempt);
    assert_eq!(refused(r#"{"attempt": 0, "sequence": 1}"#), MessageError::Start);
    assert_eq!(refused(&format!(r#"{{"attempt": 0, "start": "{}", "sequence": 1}}"#, "a".repeat(65))), MessageError::Start);
    assert_eq!(refused(r#"{"attempt": 0, "start": "a b", "sequence": 1}"#), MessageError::Start);
    assert_eq!(refused(r#"{"attempt": 0, "start": "a"}"#), MessageError::Sequence);
    assert_eq!(
        refused(r#"{"attempt": 0, "start": {"hf_secret": 1}}"#).to_string(),
        "the body is not a report: JSON of another shape at line 1, column 24"
    );
    assert_eq!(refused("hf_secret"), MessageError::Shape { line: 1, column: 1 });
    assert_eq!(kubeflow(b"{}", 0, "uid", now()).unwrap_err(), MessageError::Shape { line: 1, column: 2 });
}

#[test]
fn only_the_four_types_of_a_trainer_pass_and_only_the_newest_32() {
    let saved = |minute: usize| json!({"type": "CHECKPOINT_SAVED", "time": format!("2026-01-01T00:{minute:02}:00Z")});
    let mut events = vec![json!({"type": "TRAIN_STARTED", "time": "2026-01-01T00:00:00Z"})];
    events.extend((1..=32).map(saved));
    events.extend(["COMPLETED", "FAILED", "CREATED", "DATA_VALIDATED", "x", ""].map(|type_| json!({"type": type_, "time": "2026-01-01T00:00:00Z"})));
    events.push(json!({"type": "TRAIN_FINISHED", "time": "2026-01-01T01:00:00Z"}));
    let report = post(&json!({"events": events}));
    assert_eq!(report.events.len(), 32);
    assert_eq!(report.events[0].time, at("2026-01-01T00:02:00Z"));
    assert_eq!(report.events[31].type_, EventType::TrainFinished);
    assert!(report.events[..31].iter().all(|event| event.type_ == EventType::CheckpointSaved));
}

#[test]
fn an_event_is_never_later_than_its_arrival_and_a_time_that_is_none_drops_it() {
    let event = |time: &str| json!({"type": "TRAIN_STARTED", "time": time});
    let times = ["2031-01-01T00:00:00Z", "-009999-01-01T00:00:00Z", "1969-01-01T00:00:00Z", "yesterday", "", "2026-01-01T01:00:00+01:00"];
    let report = post(&json!({"events": times.map(event)}));
    assert_eq!(
        report.events,
        [
            Event { type_: EventType::TrainStarted, time: now(), sent: at("2031-01-01T00:00:00Z") },
            Event { type_: EventType::TrainStarted, time: at("2026-01-01T00:00:00Z"), sent: at("2026-01-01T00:00:00Z") }
        ]
    );
}

#[test]
fn what_a_trainer_says_in_words_never_leaves_this_module() {
    let report = post(&json!({
        "waitingFor": {"what": "hf_Secret", "percent": -5},
        "events": [{"type": "TRAIN_STARTED", "time": "2026-01-01T00:00:00Z", "message": "hf_secret"}]
    }));
    assert_eq!(report.waiting_for, Some(WaitingFor { what: "the trainer".to_owned(), percent: Some(0) }));
    assert_eq!(
        serde_json::to_value(report.events[0].to_status(1)).unwrap(),
        json!({"type": "TRAIN_STARTED", "time": "2026-01-01T00:00:00Z", "message": "training started", "attempt": 1})
    );
}

#[test]
fn a_checkpoint_counts_only_below_the_outputs_of_its_own_run() {
    let good = ["s3://out/team-a/my-run/a", "s3://out/team-a/my-run/checkpoints/ep1-ba20/", "s3://out/team-a/my-run/x=1/.metadata"];
    assert_eq!(good.map(|uri| below(uri, OUTPUTS)), good.map(|uri| Some(uri.trim_end_matches('/'))));
    assert_eq!(below("s3://out/team-a/my-run/a", "s3://out/team-a/my-run/"), Some("s3://out/team-a/my-run/a"));
    for bad in [
        "",
        "/",
        "s3://out/team-a/my-run",
        "s3://out/team-a/my-run/",
        "s3://out/team-a/my-run//",
        "s3://out/team-a/my-run-2/a",
        "s3://out/team-b/my-run/a",
        "S3://out/team-a/my-run/a",
        "https://out/team-a/my-run/a",
        "s3://out/team-a/my-run/../other/a",
        "s3://out/team-a/my-run/./a",
        "s3://out/team-a/my-run//a",
        "s3://out/team-a/my-run/%2e%2e/a",
        "s3://out/team-a/my-run/a?versionId=1",
        "s3://out/team-a/my-run/a b",
        "s3://out/team-a/my-run/a\nb",
        "s3://out/team-a/my-run/ü",
    ] {
        assert_eq!(below(bad, OUTPUTS), None, "{bad}");
    }
    assert_eq!(below("/a", ""), None);
    assert_eq!(below(&format!("{OUTPUTS}/{}", "a".repeat(1200)), OUTPUTS), None);
}

#[test]
fn of_many_checkpoints_the_sixteen_with_most_steps_remain_once_each() {
    let checkpoint =
        |step: usize, uri: &str, kind: &str| json!({"step": step, "time": "2026-01-01T00:00:00Z", "uri": format!("{OUTPUTS}/{uri}"), "kind": kind});
    let mut posted: Vec<Value> = (0..40).rev().map(|step| checkpoint(step, &format!("ba{step}"), "composer")).collect();
    posted.push(checkpoint(39, "ba39", "composer"));
    posted.push(checkpoint(41, "hf", "huggingface"));
    posted.push(checkpoint(42, "x", "pickle"));
    posted.push(json!({"step": 43, "uri": format!("{OUTPUTS}/no-time"), "kind": "composer"}));
    let report = post(&json!({"checkpoints": posted}));
    let steps: Vec<i64> = report.checkpoints.iter().map(|checkpoint| checkpoint.step).collect();
    assert_eq!(steps, (25..40).chain([41]).collect::<Vec<_>>());
}

#[test]
fn of_many_metrics_sixteen_with_plain_names_remain() {
    let mut named: serde_json::Map<String, Value> = (0..40).map(|i| (format!("m{i:02}"), json!(i))).collect();
    named.insert("<script>".to_owned(), json!(1));
    named.insert(String::new(), json!(1));
    named.insert("a".repeat(65), json!(1));
    let report = post(&json!({"progress": {"evalMetrics": named}}));
    let kept: Vec<String> = report.progress.eval_metrics.keys().cloned().collect();
    assert_eq!(kept, (0..16).map(|i| format!("m{i:02}")).collect::<Vec<_>>());
}

fn within_bounds(report: &Report, now: Timestamp) -> bool {
    let progress = &report.progress;
    let counts = [progress.step, progress.total_steps, progress.epoch, progress.tokens, progress.total_tokens];
    let unsigned = [progress.learning_rate, progress.gradient_norm, progress.tokens_per_second];
    let count = |n: &i64| (0..=9_007_199_254_740_991).contains(n);
    let number = |n: &f64| n.is_finite() && n.abs() <= 1e30;
    count(&report.attempt)
        && count(&report.sequence)
        && (1..=64).contains(&report.start.len())
        && report.waiting_for.as_ref().is_none_or(|w| w.what.len() <= 32 && w.percent.is_none_or(|p| (0..=100).contains(&p)))
        && progress.percent.is_none_or(|p| (0..=100).contains(&p))
        && counts.iter().flatten().all(count)
        && unsigned.iter().flatten().all(|n| number(n) && *n >= 0.0)
        && progress.loss.iter().all(number)
        && progress.eval_metrics.len() <= 16
        && progress.eval_metrics.iter().all(|(name, value)| name.len() <= 64 && number(value))
        && progress.estimated_remaining_seconds.is_none_or(|n| (0..=315_360_000).contains(&n))
        && report.events.len() <= 32
        && report.events.iter().all(|event| event.time <= now && event.time.as_second() >= 0)
        && report.checkpoints.len() <= 16
        && report.checkpoints.iter().all(|c| {
            c.uri.len() <= 1200
                && c.uri.starts_with("s3://out/team-a/my-run/")
                && !c.uri.contains("..")
                && count(&c.step)
                && c.time <= now
                && c.size_bytes.iter().all(count)
        })
}

fn any_leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        prop_oneof![
            Just("MODEL_INITIALIZED"),
            Just("composer"),
            Just("nan"),
            Just("1e999"),
            Just("2026-01-01T00:00:00Z"),
            Just("9999-12-30T00:00:00Z"),
            Just("s3://out/team-a/my-run/../a"),
            Just("s3://out/team-a/my-run/checkpoints/a")
        ]
        .prop_map(Value::from),
    ]
}

fn any_fields(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::collection::vec((prop::sample::select(names), any_leaf()), 0..12).prop_map(|fields| {
        let fields: serde_json::Map<String, Value> = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Value::Object(fields)
    })
}

prop_compose! {
    fn any_post()(
        attempt in any_leaf(), start in "[a-z0-9-]{0,70}", sequence in any::<u64>(),
        waiting in any_fields(&["what", "percent"]),
        progress in any_fields(&["step", "totalSteps", "epoch", "tokens", "totalTokens", "loss", "learningRate", "gradientNorm", "tokensPerSecond", "estimatedRemainingSeconds"]),
        metrics in any_fields(&["a", "eval/b", "<", ""]),
        events in prop::collection::vec(any_fields(&["type", "time", "message"]), 0..50),
        checkpoints in prop::collection::vec(any_fields(&["step", "epoch", "time", "uri", "sizeBytes", "kind"]), 0..30),
    ) -> Value {
        let mut progress = progress;
        progress["evalMetrics"] = metrics;
        json!({"attempt": attempt, "start": start, "sequence": sequence, "waitingFor": waiting, "progress": progress, "events": events, "checkpoints": checkpoints})
    }
}

prop_compose! {
    fn any_status()(
        fields in any_fields(&["progressPercentage", "estimatedRemainingSeconds", "lastUpdatedTime"]),
        metrics in prop::collection::vec(any_fields(&["name", "value"]), 0..40),
    ) -> Value {
        let mut fields = fields;
        fields["metrics"] = json!(metrics);
        json!({"trainerStatus": fields})
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(own(&bytes, OUTPUTS, now()).is_ok_and(|report| within_bounds(&report, now())) || own(&bytes, OUTPUTS, now()).is_err());
        let _ = kubeflow(&bytes, 0, "uid", now());
    }

    #[test]
    fn whatever_has_the_shape_of_a_post_comes_out_within_bounds(post in any_post(), status in any_status()) {
        if let Ok(report) = own(post.to_string().as_bytes(), OUTPUTS, now()) {
            prop_assert!(within_bounds(&report, now()), "{report:?}");
        }
        if let Ok(report) = kubeflow(status.to_string().as_bytes(), 0, "uid", now()) {
            prop_assert!(within_bounds(&report, now()), "{report:?}");
        }
    }
}
