use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::judge;
use crate::data::tokenizer::tests::word_tokenizer;
use crate::preflight::fake::{Server, answer, context, failed, plan, said};
use crate::preflight::plan::Deadlines;
use crate::preflight::verdict::{SourceReport, Verdict};

pub(super) const GOOD: &str = "{\"prompt\":\"hello\",\"response\":\"world a\"}\n{\"prompt\":\"b\",\"response\":\"c\"}\n";

pub(super) fn data_plan(folder: &Path, train: &str) -> Value {
    let mut plan = plan(folder);
    plan["convertData"] = json!(true);
    plan["globalBatchSize"] = json!(2);
    std::fs::write(folder.join("model/tokenizer.json"), word_tokenizer().to_string()).unwrap();
    std::fs::write(folder.join("model/tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    std::fs::write(folder.join("train.jsonl"), train).unwrap();
    plan
}

async fn verdict(plan: &Value) -> Verdict {
    judge(&context(plan, &[]), Instant::now(), &|_| ()).await
}

fn mds(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder.join("out/mds")).into_iter().flatten();
    names.map(|entry| entry.unwrap().path().join("index.json")).filter(|path| path.exists()).map(|path| path.display().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn good_data_are_converted_once_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["eval"] = plan["train"].clone();
    let first = verdict(&plan).await;
    assert_eq!(said(&first.checks), Vec::<[String; 4]>::new());
    let names: Vec<_> = first.checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names, ["Secrets", "SaveFolder", "Claim", "Model", "TrainData", "EvalData", "TrainRows", "EvalRows"]);
    let data = first.data.unwrap();
    let train = data.train.clone().unwrap();
    let indexes = mds(folder.path());
    assert_eq!(indexes, [format!("{}/index.json", train.mds.clone().unwrap())]);
    let expected = SourceReport {
        source: folder.path().join("train.jsonl").display().to_string(),
        digest: train.digest.clone(),
        rows: 2,
        tokens: train.tokens,
        duplicates: Some(0),
        samples: 2,
        mds: train.mds.clone(),
        ..SourceReport::default()
    };
    assert_eq!((&train, &data.eval), (&expected, &Some(SourceReport { also_in_train: Some(2), ..expected.clone() })));
    let second = verdict(&plan).await.data.unwrap();
    assert!(second.cached);
    assert_eq!((second.train, mds(folder.path())), (data.train, indexes));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_repeat_are_too_long_or_are_in_both_sources_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{{\"prompt\":\"{}\",\"response\":\"b\"}}\n", "a ".repeat(300));
    let mut plan = data_plan(folder.path(), &format!("{GOOD}{{\"completion\":\"c\",\"prompt\":\"\\u0062\"}}\n{long}"));
    std::fs::write(folder.path().join("eval.jsonl"), "{\"response\":\"c\",\"prompt\":\"b\"}\n{\"response\":\"a\",\"prompt\":\"b\"}\n").unwrap();
    plan["eval"] = json!(folder.path().join("eval.jsonl"));
    let data = verdict(&plan).await.data.unwrap();
    let (train, eval) = (data.train.clone().unwrap(), data.eval.clone().unwrap());
    assert_eq!((train.rows, train.duplicates, train.also_in_train, train.too_long, train.dropped), (4, Some(1), None, 1, 1));
    assert_eq!((eval.rows, eval.duplicates, eval.also_in_train, eval.advice), (2, Some(0), Some(1), None));
    let advice =
        "25.0 % of 4 rows are longer than contextLength 256 and are cut or dropped; a contextLength of 320 would keep 99 % of the rows whole";
    assert_eq!(train.advice.as_deref(), Some(advice));
    let again = verdict(&plan).await.data.unwrap();
    assert_eq!((again.cached, again.train, again.eval), (true, data.train, data.eval));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_named_and_nothing_is_left_to_train_on() {
    let folder = tempfile::tempdir().unwrap();
    let plan = data_plan(folder.path(), &format!("{GOOD}not json\n{{\"prompt\":1,\"response\":\"a\"}}\n"));
    let verdict = verdict(&plan).await;
    let train = folder.path().join("train.jsonl").display().to_string();
    let message = format!(
        "spec.trainDataPath: 2 of 4 rows of {train} break a rule; mend or remove them: train.jsonl line 3: InvalidJsonError: the line is not JSON: a value \
         was expected (column 1); train.jsonl line 4: InvalidPromptTypeError: the prompt must be a string, it is a number"
    );
    assert_eq!(said(&verdict.checks), [failed("TrainRows", "DataError", "BadRows", &message)]);
    assert_eq!((verdict.exit_code(), mds(folder.path())), (20, Vec::<String>::new()));
    let report: Value = serde_json::from_slice(&std::fs::read(folder.path().join("out/my-run/preflight.json")).unwrap()).unwrap();
    let lines: Vec<_> = report["badRows"]["train"].as_array().unwrap().iter().map(|row| row["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn less_data_than_one_step_takes_are_refused_with_both_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["globalBatchSize"] = json!(3);
    let train = folder.path().join("train.jsonl").display().to_string();
    let message = format!(
        "spec.trainDataPath: {train} has 2 rows to train on, but one training step takes 3; add data, or ask the administrator for a smaller batch"
    );
    assert_eq!(said(&verdict(&plan).await.checks), [failed("TrainRows", "DataError", "DatasetTooSmall", &message)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tokenizer_that_cannot_be_used_is_the_models_failure() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    plan["checkCredentials"] = json!(false);
    std::fs::write(folder.path().join("model/tokenizer.json"), "{}").unwrap();
    let verdict = verdict(&plan).await;
    let [name, class, reason, _] = &said(&verdict.checks)[0];
    assert_eq!([name, class, reason], ["Model", "UserError", "TokenizerUnusable"]);
    assert_eq!((verdict.checks.len(), verdict.data), (3, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_tokenizer_that_can_be_read_says_so_and_the_one_that_was_made_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    let (model, made) = (folder.path().join("model"), folder.path().join("made"));
    std::fs::create_dir(&made).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::rename(model.join(name), made.join(name)).unwrap();
    }
    let message = format!(
        "spec.model: {} has no tokenizer.json, and none could be made of its other files; ask the administrator to correct the FinetuneModel",
        model.display()
    );
    for check_credentials in [true, false] {
        plan["checkCredentials"] = json!(check_credentials);
        assert_eq!(said(&verdict(&plan).await.checks), [failed("Model", "UserError", "TokenizerMissing", &message)]);
    }
    plan["model"]["tokenizer"] = json!(made.display().to_string());
    for check_credentials in [true, false] {
        plan["checkCredentials"] = json!(check_credentials);
        assert_eq!(said(&verdict(&plan).await.checks), Vec::<[String; 4]>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_cannot_be_read_to_the_end_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    std::fs::write(folder.path().join("train.jsonl.gz"), b"\x1f\x8b\x08\x00cut").unwrap();
    plan["train"] = json!(folder.path().join("train.jsonl.gz"));
    let verdict = verdict(&plan).await;
    let place = folder.path().join("train.jsonl.gz").display().to_string();
    let message = format!("spec.trainDataPath: {place} cannot be read to its end: it is cut off or compressed wrongly; upload it again");
    assert_eq!(said(&verdict.checks), [failed("TrainRows", "DataError", "Unreadable", &message)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_converted_like_lines_and_a_bad_row_of_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = data_plan(folder.path(), GOOD);
    let golden = |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/parquet").join(name)).unwrap();
    let place = folder.path().join("train.parquet");
    plan["train"] = json!(place);
    std::fs::write(&place, golden("pairs-snappy.parquet")).unwrap();
    let train = verdict(&plan).await.data.unwrap().train.unwrap();
    assert_eq!((train.rows, train.samples, train.duplicates), (50, 50, Some(0)));
    for (content, reason, message) in [
        (
            golden("kinds.parquet"),
            "BadRows",
            "4 of 4 rows of PLACE break a rule; mend or remove them: train.parquet row 1: UnknownExampleTypeError: a row has the single key messages",
        ),
        (golden("no-rows.parquet"), "EmptyData", "PLACE has no rows"),
        (golden("pairs-snappy.parquet")[..900].to_vec(), "Unreadable", "PLACE: the footer cannot be read as Parquet: "),
    ] {
        std::fs::write(&place, content).unwrap();
        let [name, class, told, text] = &said(&verdict(&plan).await.checks)[0];
        assert_eq!([name, class, told], ["TrainRows", "DataError", reason]);
        let expected = format!("spec.trainDataPath: {}", message.replace("PLACE", &place.display().to_string()));
        assert!(text.starts_with(&expected), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_take_too_long_are_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let mut context = context(&data_plan(folder.path(), GOOD), &[]);
    context.plan.deadlines = Deadlines { credentials_seconds: 3600, data_seconds: 1 };
    let verdict = judge(&context, Instant::now().checked_sub(Duration::from_secs(2)).unwrap(), &|_| ()).await;
    let [name, class, reason, _] = &said(&verdict.checks)[0];
    assert_eq!([name, class, reason], ["TrainRows", "Infrastructure", "DeadlineExceeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_whose_name_leaves_its_folder_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["t/../secret.txt", "t//a.txt", "t/./a.txt"] {
        let listing = format!(
            "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>\
             <ETag>\"e\"</ETag><Size>5</Size></Contents></ListBucketResult>"
        );
        let server = Server::answering(move |_| answer(200, listing.clone())).await;
        let mut plan = data_plan(folder.path(), GOOD);
        plan["taskType"] = json!("CONTINUED_PRETRAIN");
        plan["train"] = json!("s3://bucket/t");
        plan["s3"] = json!({"endpointUrl": server.address});
        let verdict = verdict(&plan).await;
        let message =
            "spec.trainDataPath: cannot list s3://bucket/t: it has an object whose name has an empty part, `.` or `..`; rename or remove it";
        assert_eq!(said(&verdict.checks), [failed("TrainData", "UserError", "ObjectNameInvalid", message)]);
        assert!(server.asked().iter().all(|asked| !asked.contains("secret")));
    }
}
