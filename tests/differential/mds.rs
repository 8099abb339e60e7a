//! Converted data as training reads them: with `mosaicml-streaming` and LLM Foundry's loader, beside the rows they came
//! from and beside what LLM Foundry's own converter writes.

use std::path::{Path, PathBuf};
use std::process::Command;

use finetune_operator::api::TaskType;
use finetune_operator::data::model::Model;
use finetune_operator::data::row::Judge;
use finetune_operator::data::turns::Measure;
use serde_json::{Value, json};

use super::corpus;
use super::engine;

const CONTEXT: u32 = 128;

/// Runs the program that preflight is, and gives what it says.
fn preflight(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(env!("CARGO_BIN_EXE_finetune-preflight")).args(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// Good rows as lines, and those of them that are kept as the engine should see them.
fn good_rows(chat: bool, model: &Model) -> (Vec<u8>, Vec<Value>) {
    let task = if chat { TaskType::ChatCompletion } else { TaskType::InstructionFinetune };
    let measure = Measure { tokenizer: &model.tokenizer, template: &model.template, context: CONTEXT };
    let (mut lines, mut kept) = (Vec::new(), Vec::new());
    for line in corpus::rows(11, 3_000) {
        let mut judge = Judge::new(task);
        let Some(row) = std::str::from_utf8(&line.bytes).ok().and_then(|text| judge.judge(text).ok()) else { continue };
        let Ok(measured) = measure.row(row) else { continue };
        lines.extend_from_slice(&line.bytes);
        lines.push(b'\n');
        if measured.trains {
            let row: Value = serde_json::from_slice(&line.bytes).expect("a good row is JSON");
            let response = row.get("response").or_else(|| row.get("completion"));
            kept.push(if chat { row } else { json!({"prompt": row["prompt"], "response": response}) });
        }
    }
    (lines, kept)
}

#[test]
fn converted_rows_are_read_as_they_were_written() {
    let (folder, model) = engine::model("mds", "tiny");
    for (chat, task) in [(true, "CHAT_COMPLETION"), (false, "INSTRUCTION_FINETUNE")] {
        let (lines, kept) = good_rows(chat, &model);
        let files = engine::scratch(&format!("mds-{task}"));
        let rows = files.join("rows.jsonl");
        let out = files.join("out");
        std::fs::write(&rows, lines).expect("the rows are written");
        let said = preflight(&[
            "rows",
            path(&rows),
            "--task-type",
            task,
            "--tokenizer",
            path(&folder),
            "--context-length",
            &CONTEXT.to_string(),
            "--out",
            path(&out),
            "--format",
            "json",
        ]);
        let said: Value = serde_json::from_str(&said.expect("the rows are good")).expect("a summary");
        let answer = engine::ask(&json!({"do": "read", "folder": out, "model": folder, "context": CONTEXT}));
        assert!(kept.len() > 200 && answer["samples"].as_array() == Some(&kept), "{task}: {} samples", kept.len());
        assert_eq!((&said["kept"], &said["tokens"]), (&json!(kept.len()), &answer["tokens"]), "{task}");
    }
}

#[test]
fn rows_that_fill_several_shards_are_read_in_order() {
    let files = engine::scratch("shards");
    let rows = files.join("rows.jsonl");
    let response = |row: usize| format!("{row} é ").repeat(1 << 20);
    let lines: String = (0..16).map(|row| json!({"prompt": format!("row {row}"), "response": response(row)}).to_string() + "\n").collect();
    std::fs::write(&rows, lines).expect("the rows are written");
    let out = files.join("out");
    preflight(&["rows", path(&rows), "--task-type", "INSTRUCTION_FINETUNE", "--out", path(&out)]).expect("the rows are good");
    let shards = std::fs::read_dir(&out).expect("the folder is there").count() - 1;
    let answer = engine::ask(&json!({"do": "read", "folder": out}));
    let expected: Vec<_> = (0..16).map(|row| json!({"prompt": format!("row {row}"), "response": response(row)})).collect();
    assert!(shards > 1 && answer["samples"].as_array() == Some(&expected), "{shards} shards");
}

/// A folder of text in every shape that files have.
fn texts() -> PathBuf {
    let folder = engine::scratch("texts");
    std::fs::create_dir_all(folder.join("b/deeper")).expect("the folders are made");
    let words = "The quick brown fox naïve 日本語 12345 jumps. ";
    let long: String = (0..3_000).fold(String::new(), |text, line| text + &format!("{line} {words}"));
    // The engine reads a million characters at once: one of four bytes stands where it stops.
    let cut = words.repeat(1_000_000 / words.chars().count() + 1).chars().take(999_999).chain(['🙂', 'é', '\r']).collect::<String>() + "\nbehind";
    for (name, content) in [
        ("a.txt", words.repeat(20).as_str()),
        ("a-b.txt", "one\r\ntwo\rthree\r\r\n\n"),
        ("b/empty.txt", ""),
        ("b/deeper/byte-order.txt", "\u{feff}mark"),
        ("b/long.txt", &long),
        ("b/cut.txt", &cut),
        ("b/ignored.md", "never read"),
        ("blank.txt", "\n \n"),
        ("z.txt", "</s><s> <|eot_id|> e\u{301}\u{85}\u{2028}\u{0}end"),
    ] {
        std::fs::write(folder.join(name), content).expect("a text is written");
    }
    folder
}

#[test]
fn text_becomes_the_samples_that_the_engines_converter_makes() {
    let texts = texts();
    for (kind, tokens, begin, end, wraps) in [
        ("tiny", 500, "", "", true),
        ("tiny", 64, "", "</s>", true),
        ("tiny", 100, "<s>", "</s>", false),
        ("llama2", 2000, "", "</s>", true),
        ("llama2", 77, "<s>", "", false),
        ("llama3", 512, "", "<|eot_id|>", true),
        ("llama3", 300, "<|begin_of_text|>", " the end. ", false),
        ("gemma", 1000, "", "<eos>", true),
        ("qwen", 1024, "", "<|im_end|>", true),
    ] {
        let (model, loaded) = engine::model("text", kind);
        let out = engine::scratch("text-ours");
        let tokens = tokens.to_string();
        let mut arguments = vec!["text", path(&texts), path(&out), "--tokenizer", path(&model), "--concat-tokens", &tokens, "--bos-text", begin];
        if end == loaded.tokenizer.end_text() {
            arguments.push("--use-tokenizer-eos");
        } else {
            arguments.extend(["--eos-text", end]);
        }
        if !wraps {
            arguments.push("--no-wrap");
        }
        preflight(&arguments).expect("the text is converted");
        let ours = engine::ask(&json!({"do": "read", "folder": out}));
        let theirs = engine::ask(&json!({"do": "text", "folder": texts, "out": engine::scratch("text-theirs"), "model": model,
            "concat_tokens": tokens.parse::<u32>().expect("a number"), "bos_text": begin, "eos_text": end, "no_wrap": !wraps}));
        let (ours, theirs) = (ours["samples"].as_array().expect("samples"), theirs["samples"].as_array().expect("samples"));
        let differs = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs);
        assert_eq!((ours.len(), differs), (theirs.len(), None), "{arguments:?}");
        assert!(ours.len() > if wraps { 100 } else { 2 }, "{arguments:?}: {} samples", ours.len());
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_by_both() {
    let texts = engine::scratch("not-utf8");
    std::fs::write(texts.join("bad.txt"), b"fine \xff").expect("a text is written");
    let (model, _) = engine::model("not-utf8-model", "tiny");
    let out = engine::scratch("not-utf8-out");
    let ours = preflight(&["text", path(&texts), path(&out), "--tokenizer", path(&model), "--concat-tokens", "2"]).expect_err("it is refused");
    assert!(ours.contains("bad.txt is not UTF-8 (byte 5)"), "{ours}");
    let theirs = engine::ask(&json!({"do": "text", "folder": texts, "out": out, "model": model, "concat_tokens": 2,
        "bos_text": "", "eos_text": "", "no_wrap": false}));
    assert_eq!(theirs["error"], "CannotUnicodeDecodeFile");
}
