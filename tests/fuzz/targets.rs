//! The parsers of outside input, each with good inputs to begin from.

use std::io::Read as _;
use std::path::Path;
use std::str::FromStr as _;

use finetune_operator::api::TaskType;
use finetune_operator::api::training_duration::TrainingDuration;
use finetune_operator::controller::classify;
use finetune_operator::controller::facts::{Container, PodFacts};
use finetune_operator::data::row::{Judge, Row};
use finetune_operator::data::rows::{RowReader, RowsReport};
use finetune_operator::data::source::{Location, SourceFile};
use finetune_operator::data::template::{ChatTemplate, value_of};
use finetune_operator::data::tokenizer::{ModelTokenizer, TokenizerFiles};
use finetune_operator::data::turns::Measure;
use finetune_operator::preflight::address::Policy;
use finetune_operator::preflight::checks::shard_names;
use finetune_operator::preflight::place::Place;
use finetune_operator::preflight::plan::Plan;
use finetune_operator::preflight::verdict::Verdict;
use finetune_operator::report::wire;
use jiff::Timestamp;
use serde_json::Value;

use super::fuzz;

const CHAT: &[u8] = br#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "h\u00e9\ud83d\ude42"}, {"content": "a", "role": "assistant"}]}"#;
const PAIR: &[u8] = br#" {"prompt": "a \"b\" \\ \n", "completion": "caf\u00e9 [1, 2.5e-3, null]"} "#;
const TOKENIZER: &[u8] = br#"{"version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
    "post_processor": null, "decoder": null, "model": {"type": "BPE", "dropout": null, "unk_token": "</s>", "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"</s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}}"#;
const CONFIG: &[u8] = br#"{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": {"content": "</s>", "lstrip": false}, "add_bos_token": false,
    "added_tokens_decoder": {"0": {"content": "</s>", "special": true}}, "chat_template": [{"name": "default", "template": "{{ messages }}"}]}"#;

fn tokenizer() -> ModelTokenizer {
    let files = TokenizerFiles { tokenizer: TOKENIZER.to_vec(), config: Some(CONFIG.to_vec()), ..TokenizerFiles::default() };
    ModelTokenizer::load(&files).expect("the seed is good")
}

#[test]
fn a_row_is_good_only_if_it_is_json_and_says_what_it_says() {
    fuzz("row", &[CHAT, PAIR], |input| {
        let Ok(line) = std::str::from_utf8(input) else { return };
        for task in [TaskType::ChatCompletion, TaskType::InstructionFinetune] {
            let mut judge = Judge::new(task);
            let Ok(row) = judge.judge(line) else { continue };
            let json: Value = serde_json::from_str(line).expect("a good row is JSON");
            match row {
                Row::Chat(messages) => {
                    let contents: Vec<_> = messages.iter().map(|message| (message.role.as_str(), message.content.value())).collect();
                    let expected = json["messages"].as_array().expect("a conversation");
                    assert!(contents.iter().zip(expected).all(|((role, text), json)| json["role"] == *role && json["content"] == text.as_ref()));
                    assert_eq!(contents.len(), expected.len());
                }
                Row::Pair { prompt, response } => {
                    assert_eq!(json["prompt"], prompt.value().as_ref());
                    assert_eq!(json.get("response").or(json.get("completion")).expect("a response"), response.value().as_ref());
                }
            }
        }
    });
}

#[test]
fn a_file_of_rows_is_read_to_its_end_however_it_is_compressed() {
    let gzip = |bytes: &[u8]| {
        let mut packed = Vec::new();
        flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).expect("it is packed");
        packed
    };
    let rows = [CHAT, b"\n", CHAT, b"\r\n\n", PAIR].concat();
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("it is packed");
    let bomb = vec![b' '; 1 << 20];
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let model = tokenizer();
    let template = ChatTemplate::new(&model, Some("{% for m in messages %}{{ m.content }}{% endfor %}")).expect("the seed is good");
    for (end, seeds) in
        [("jsonl", [rows.clone(), b"{}".to_vec()]), ("jsonl.gz", [gzip(&rows), gzip(&bomb)]), ("jsonl.zst", [zstd(&rows), zstd(&bomb)])]
    {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-rows.{end}"));
        fuzz(&format!("file-{end}"), &[seeds[0].as_slice(), seeds[1].as_slice()], |input| {
            std::fs::write(&file, input).expect("the file is written");
            let at = Location::of_file(&file).expect("a place");
            let found = runtime.block_on(SourceFile::find(&at)).expect("the file is there");
            let measure = Measure { tokenizer: &model, template: &template, context: 16 };
            let reader = RowReader { task: TaskType::ChatCompletion, measure: Some(&measure), threads: 1, listed: 3 };
            let (mut report, mut bad) = (RowsReport::default(), 0);
            let Ok(bytes) = found.reader(runtime.handle(), 0) else { return };
            if reader.read("f", bytes, &mut report, None, |_| bad += 1).is_ok() {
                assert_eq!(report.rows, report.bad + report.dropped + report.kept);
                assert!(bad <= report.bad);
            }
        });
    }
}

#[test]
fn a_chat_template_renders_or_says_why_not() {
    let model = tokenizer();
    let templates: Vec<_> = ["llama-2", "llama-3.1", "mistral-0.3", "qwen-3", "gemma-3"]
        .map(|name| std::fs::read(format!("{}/tests/differential/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"))).expect("a template"))
        .to_vec();
    let small: [&[u8]; 4] = [
        b"{% for m in messages %}{{ m.role + ': ' + m.content | trim }}{% endfor %}{{ eos_token if add_generation_prompt }}",
        b"{% macro f(x, n=2) %}{{ x | tojson(indent=n) }}{% endmacro %}{{ f(messages) }}{{ 'a'.split(',')[0] | upper }}",
        b"{% set ns = namespace(a='x') %}{% for i in range(9) %}{% set ns.a = ns.a + ns.a %}{% endfor %}{{ ns.a * 3 }}",
        b"{%- generation -%}{{ strftime_now('%Y-%m-%d') }}{{ raise_exception('no') }}{% endgeneration %}",
    ];
    let seeds: Vec<_> = templates.iter().map(Vec::as_slice).chain(small).collect();
    let line = std::str::from_utf8(CHAT).expect("text");
    fuzz("template", &seeds, |input| {
        let Ok(source) = std::str::from_utf8(input) else { return };
        let Ok(template) = ChatTemplate::new(&model, Some(source)) else { return };
        let mut judge = Judge::new(TaskType::ChatCompletion);
        let Ok(Row::Chat(messages)) = judge.judge(line) else { panic!("the row is good") };
        let messages: Vec<_> = messages.iter().map(value_of).collect();
        let _ = template.render(&messages, true);
    });
}

#[test]
fn a_tokenizers_files_load_or_are_named() {
    fuzz("tokenizer", &[TOKENIZER], |input| {
        let files = TokenizerFiles { tokenizer: input.to_vec(), config: Some(CONFIG.to_vec()), ..TokenizerFiles::default() };
        if let Ok(tokenizer) = ModelTokenizer::load(&files) {
            let _ = tokenizer.encode("ab ba\n é</s>", true);
        }
    });
    fuzz(
        "tokenizer-config",
        &[CONFIG, br#"{"tokenizer_class": "LlamaTokenizer", "bos_token": "a", "eos_token": "b", "unk_token": "</s>"}"#],
        |input| {
            let files = TokenizerFiles { tokenizer: TOKENIZER.to_vec(), config: Some(input.to_vec()), ..TokenizerFiles::default() };
            if let Ok(tokenizer) = ModelTokenizer::load(&files) {
                let _ = tokenizer.encode("ab ba\n é</s>", true);
            }
        },
    );
}

#[test]
fn a_plan_that_is_read_is_written_back() {
    let golden = include_str!("../golden/jobs/preflight.yaml");
    let config: Value = golden
        .split("\n---\n")
        .filter_map(|object| serde_saphyr::from_str::<Value>(object).ok())
        .find(|object| object["kind"] == "ConfigMap")
        .expect("a plan");
    let plan = config["data"]["plan.json"].as_str().expect("a plan");
    Plan::parse(plan.as_bytes()).expect("the seed is good");
    fuzz("plan", &[plan.as_bytes()], |input| {
        if let Ok(plan) = Plan::parse(input) {
            let written = serde_json::to_vec(&plan).expect("a plan is JSON");
            assert_eq!(Plan::parse(&written).expect("it is read again"), plan);
        }
    });
}

#[test]
fn a_termination_message_is_believed_only_within_its_bounds() {
    let verdict =
        br#"{"version": 1, "stage": "preflight", "specHash": "h", "passed": true, "checks": [{"name": "data", "passed": true, "message": "fine"}],
        "data": {"source": "s3://a/b", "rows": 3, "tokens": 9, "tooLong": 0, "dropped": 0, "digest": "d", "mds": "s3://a/mds/k"}}"#;
    fuzz("verdict", &[verdict], |input| {
        let _ = Verdict::parse(&String::from_utf8_lossy(input));
    });
    let farewell =
        br#"{"version": 1, "stage": "train", "runUid": "u", "attempt": 0, "outcome": "failed", "exception": "ValueError: x", "logTail": "a\nb",
        "checkpoints": [], "export": {"uri": "s3://out/x", "sizeBytes": 3}}"#;
    fuzz("farewell", &[farewell], |input| {
        let message = String::from_utf8_lossy(input).into_owned();
        let container = Container::Ended { code: 1, reason: "Error".to_owned(), message, at: Timestamp::UNIX_EPOCH };
        let _ = classify::farewell(&[PodFacts { container, ..PodFacts::default() }], "u");
    });
}

#[test]
fn a_report_has_no_number_and_no_place_that_it_may_not_have() {
    let own = br#"{"attempt": 0, "start": "s-1", "sequence": 3, "progress": {"step": 1, "totalSteps": 10, "epoch": 0, "tokens": 30, "loss": 5.1, "learningRate": 0.1,
        "evalMetrics": {"LanguageCrossEntropy": 4.0}, "estimatedRemainingSeconds": 40}, "events": [{"type": "CHECKPOINT_SAVED", "time": "2026-01-01T00:00:00Z", "message": "m"}],
        "checkpoints": [{"step": 1, "epoch": 0, "time": "2026-01-01T00:00:00Z", "uri": "s3://out/r/checkpoints/ba1", "sizeBytes": 1, "kind": "composer"}]}"#;
    let kubeflow = br#"{"trainerStatus": {"progressPercentage": 10, "estimatedRemainingSeconds": "40", "metrics": [{"name": "loss", "value": "1.5"}, {"name": "eval_x", "value": 2}]}}"#;
    let now = Timestamp::UNIX_EPOCH;
    fuzz("report", &[own, kubeflow], |input| {
        if let Ok(report) = wire::own(input, "s3://out/r", now) {
            assert!(report.attempt >= 0 && report.checkpoints.iter().all(|checkpoint| checkpoint.uri.starts_with("s3://out/r/")));
        }
        let _ = wire::kubeflow(input, 0, "pod", now);
    });
}

#[test]
fn a_place_an_address_and_a_duration_are_read_or_refused() {
    let places: [&[u8]; 9] = [
        b"s3://bucket/a/b.jsonl",
        b"gs://b/k",
        b"az://account/container/x",
        b"oci://b@n/x",
        b"pvc://claim/path",
        b"https://host:8443/a%20b.jsonl",
        b"dbfs:/Volumes/c/s/v/f.jsonl",
        b"entity/dataset/split",
        b"catalog.schema.table",
    ];
    fuzz("place", &places, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = Place::parse(text);
    });
    fuzz("address", &[b"http://user@[::ffff:169.254.169.254]:80/x?y#z", b"https://s3.eu.example.com", b"http://0x7f.1/"], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let _ = Policy::strict(Some("10.0.0.1")).check(text);
    });
    fuzz("duration", &[b"1_000_000tok", b"3ep", b"10ba"], |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        if let Ok(duration) = TrainingDuration::from_str(text) {
            assert_eq!(TrainingDuration::from_str(&duration.to_string()).ok(), Some(duration));
        }
    });
}

#[test]
fn an_index_of_weights_lists_plain_names_or_nothing() {
    fuzz("index", &[br#"{"metadata": {"total_size": 3}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#], |input| {
        for name in shard_names(input).unwrap_or_default() {
            assert!(!name.is_empty() && name != ".." && !name.contains(['/', '\\']));
        }
    });
}
