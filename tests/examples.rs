//! Every manifest that is shipped parses strictly, keeps its kind's rules, and together they resolve to runs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use finetune_operator::api::defaults::NamespaceDefaults;
use finetune_operator::api::{FinetuneModel, FinetuneRun, FinetuneRuntime, TaskType};
use finetune_operator::controller::settings::Settings;
use finetune_operator::engine::{Request, resolve};
use serde::de::DeserializeOwned;
use serde_json::Value;

const EXAMPLES: &str = "examples";
const CATALOGUE: &str = "charts/finetune-operator/catalogue";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The documents of every YAML file in a folder, with the file's name.
fn documents(folder: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join(folder)).expect("the folder is there") {
        let path = entry.expect("an entry is readable").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let file = path.strip_prefix(root()).expect("below the root").display().to_string();
            let text = std::fs::read_to_string(&path).expect("a manifest is readable");
            found.extend(
                serde_saphyr::from_multiple::<Value>(&text)
                    .unwrap_or_else(|error| panic!("{file}: {error}"))
                    .into_iter()
                    .map(|value| (file.clone(), value)),
            );
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Objects of `kind`. A field that the type does not know would be missing when it is written again.
fn objects<K: DeserializeOwned + serde::Serialize>(folder: &str, kind: &str) -> Vec<(String, K)> {
    let of_kind = documents(folder).into_iter().filter(|(_, value)| value["kind"] == kind);
    of_kind
        .map(|(file, value)| {
            let object: K = serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{file}: {error}"));
            let again = serde_json::to_value(&object).expect("an object serializes");
            assert_eq!(unknown("", &value, &again), Vec::<String>::new(), "{file}: fields that {kind} does not have");
            (file, object)
        })
        .collect()
}

fn unknown(path: &str, given: &Value, known: &Value) -> Vec<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given
            .iter()
            .flat_map(|(key, value)| {
                known.get(key).map_or_else(|| vec![format!("{path}.{key}")], |other| unknown(&format!("{path}.{key}"), value, other))
            })
            .collect(),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).enumerate().flat_map(|(i, (value, other))| unknown(&format!("{path}[{i}]"), value, other)).collect()
        }
        _ => Vec::new(),
    }
}

fn models() -> Vec<(String, FinetuneModel)> {
    [EXAMPLES, CATALOGUE].into_iter().flat_map(|folder| objects(folder, "FinetuneModel")).collect()
}

/// The runtimes of the examples and those that the chart's values make.
fn runtimes() -> Vec<FinetuneRuntime> {
    let values: Value =
        serde_saphyr::from_str(&std::fs::read_to_string(root().join("charts/finetune-operator/values.yaml")).expect("values.yaml")).expect("YAML");
    let values = values["runtimes"].as_object().expect("runtimes");
    let shipped = values.iter().map(|(name, spec)| {
        let mut spec = spec.clone();
        if let Some(other) = spec.as_object_mut().and_then(|spec| spec.shift_remove("from")) {
            for (key, value) in values[other.as_str().expect("a name")].as_object().expect("a runtime") {
                spec.as_object_mut().expect("a runtime").entry(key).or_insert(value.clone());
            }
        }
        FinetuneRuntime::new(name, serde_json::from_value(spec).unwrap_or_else(|error| panic!("runtimes.{name}: {error}")))
    });
    objects(EXAMPLES, "FinetuneRuntime").into_iter().map(|(_, runtime)| runtime).chain(shipped).collect()
}

fn settings() -> Settings {
    Settings {
        preflight_image: "finetune-operator:test".to_owned(),
        preflight_pull_policy: None,
        report_url: "https://finetune-operator.finetune-system.svc:8443".to_owned(),
        report_audience: "finetune.dev".to_owned(),
        experiment_prefix: "/finetune".to_owned(),
        data_deadline_seconds: 86_400,
        allowed_endpoints: Vec::new(),
    }
}

fn name<K: kube::Resource>(object: &K) -> &str {
    object.meta().name.as_deref().expect("a name")
}

fn accepted(
    run: &str,
    run_spec: &finetune_operator::api::FinetuneRunSpec,
    model: &FinetuneModel,
    runtimes: &[FinetuneRuntime],
) -> Result<(), String> {
    let runtime =
        runtimes.iter().find(|runtime| name(*runtime) == model.spec.runtime).ok_or(format!("{}: no runtime {}", name(model), model.spec.runtime))?;
    let request = Request {
        run,
        namespace: "team-a",
        spec: run_spec,
        model_object: name(model),
        model: &model.spec,
        runtime_object: name(runtime),
        runtime: &runtime.spec,
        defaults: &NamespaceDefaults::default(),
        settings: &settings(),
    };
    resolve(&request).map(|_| ()).map_err(|refusal| refusal.message)
}

#[test]
fn no_manifest_is_of_another_kind() {
    let kinds: BTreeSet<_> =
        [EXAMPLES, CATALOGUE].into_iter().flat_map(documents).map(|(_, value)| value["kind"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(kinds, ["FinetuneModel", "FinetuneRun", "FinetuneRuntime"].map(str::to_owned).into());
}

#[test]
fn every_run_of_the_examples_keeps_the_rules_and_is_accepted() {
    let (models, runtimes) = (models(), runtimes());
    let runs = objects::<FinetuneRun>(EXAMPLES, "FinetuneRun");
    for (file, run) in &runs {
        run.validate_cel().unwrap_or_else(|error| panic!("{file}: {error}"));
        let (_, model) =
            models.iter().find(|(_, model)| model.spec.name == run.spec.model).unwrap_or_else(|| panic!("{file}: no model {}", run.spec.model));
        assert_eq!(accepted(name(run), &run.spec, model, &runtimes), Ok(()), "{file}");
    }
    assert_eq!(
        runs.iter().map(|(_, run)| name(run)).collect::<BTreeSet<_>>(),
        ["bad-row", "bad-secret", "chat", "instruction", "pretrain", "support-assistant"].into()
    );
}

/// At the default context length of the model, and at the longest that each of its sizes is for.
#[test]
fn every_model_can_be_trained_at_every_size_of_its_table() {
    let (models, runtimes) = (models(), runtimes());
    for (file, model) in &models {
        let spec = &model.spec;
        let lengths = spec.compute.iter().map(|size| size.max_context_length.unwrap_or(spec.max_context_length)).chain([spec.context_length()]);
        for context_length in lengths {
            for task in [TaskType::InstructionFinetune, TaskType::ChatCompletion, TaskType::ContinuedPretrain] {
                let run = serde_json::json!({
                    "model": spec.name, "trainDataPath": "s3://data/folder", "saveFolder": "s3://out/team-a", "taskType": task, "contextLength": context_length
                });
                let run = serde_json::from_value(run).expect("a run");
                assert_eq!(accepted("sample", &run, model, &runtimes), Ok(()), "{file}: {} at {context_length}", spec.name);
            }
        }
    }
}

#[test]
fn models_are_named_once_and_their_tables_are_in_order() {
    let models = models();
    let (mut objects, mut names) = (BTreeSet::new(), BTreeSet::new());
    for (file, model) in &models {
        assert!(objects.insert(name(model)), "{file}: two objects {}", name(model));
        assert!(names.insert(&model.spec.name), "{file}: two models {}", model.spec.name);
        let spec = &model.spec;
        assert!(spec.default_context_length.is_none_or(|length| length <= spec.max_context_length), "{file}: {}", spec.name);
        assert!(
            spec.compute.iter().map(|size| size.max_context_length.unwrap_or(i64::MAX)).is_sorted_by(|a, b| a < b),
            "{file}: the first size that fits counts: {}",
            spec.name
        );
        assert!(
            spec.compute.iter().all(|size| size.max_context_length.is_none_or(|length| length <= spec.max_context_length)),
            "{file}: {}",
            spec.name
        );
    }
    for family in [
        "mosaicml/mpt",
        "meta-llama/Llama-2",
        "meta-llama/Meta-Llama-3",
        "meta-llama/Llama-3",
        "mistralai/Mixtral",
        "databricks/dbrx",
        "codellama/",
        "Qwen/Qwen2.5",
        "Qwen/Qwen3",
        "google/gemma",
    ] {
        assert!(names.iter().any(|name| name.starts_with(family)), "no {family}");
    }
}

#[test]
fn the_data_of_the_examples_have_the_rows_that_the_manifests_speak_of() {
    let lines = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(root().join("examples/data").join(file)).expect("data");
        text.lines().map(|line| serde_json::from_str(line).expect("a row is JSON")).collect()
    };
    for (file, rows) in [("instruction/train.jsonl", 400), ("instruction/eval.jsonl", 40)] {
        let found = lines(file);
        assert_eq!(found.len(), rows, "{file}");
        assert!(found.iter().all(|row| row["prompt"].is_string() && row["response"].is_string()), "{file}");
    }
    let words = |row: &Value| row.to_string().split_whitespace().count();
    assert_eq!(lines("chat/train.jsonl").iter().filter(|row| words(row) > 256).count(), 1, "a row of more than 256 words has more than 256 tokens");
    let repeats = |row: &Value| row["messages"].as_array().is_some_and(|messages| messages.windows(2).any(|pair| pair[0]["role"] == pair[1]["role"]));
    let bad: Vec<_> = lines("bad/chat.jsonl").iter().enumerate().filter(|(_, row)| repeats(row)).map(|(index, _)| index + 1).collect();
    assert_eq!(bad, [17]);
    assert_eq!(lines("chat/train.jsonl").iter().filter(|row| repeats(row)).count(), 0);
    assert!(size(&root().join("examples/data")) < 400_000);
}

fn size(path: &Path) -> u64 {
    if path.is_file() {
        return path.metadata().expect("metadata").len();
    }
    std::fs::read_dir(path).expect("a folder").map(|entry| size(&entry.expect("an entry").path())).sum()
}
