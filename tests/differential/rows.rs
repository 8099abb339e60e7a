//! Verdict, rule, dropping and number of tokens of each row, as LLM Foundry finds them and as the data path does.

use std::collections::BTreeMap;
use std::path::Path;

use finetune_operator::api::TaskType;
use finetune_operator::data::model::Model;
use finetune_operator::data::row::Judge;
use finetune_operator::data::rows::{RowReader, RowsReport};
use finetune_operator::data::rule::Rule;
use finetune_operator::data::turns::{Measure, MeasureError, Measured};
use serde::Deserialize;
use serde_json::json;

use super::corpus::{self, Line};
use super::engine;

/// What the engine says about a row.
#[derive(Debug, Deserialize)]
struct Theirs {
    error: Option<String>,
    #[serde(default)]
    tokens: u64,
    #[serde(default)]
    kept: Vec<bool>,
    traits: Vec<String>,
}

/// What the data path says about it.
#[derive(Debug, PartialEq)]
enum Ours {
    Bad(Rule),
    /// At each context length.
    Good(Vec<Measured>),
}

/// The rules that are stricter than the engine's, each with what a row must have to be refused by it although the
/// engine says something else. They are the rows of docs/data-rules.md that have something in the column *ours*.
const STRICTER: [(Rule, &[&str]); 9] = [
    (Rule::RowTooLargeError, &[]),
    (Rule::InvalidUtf8Error, &["not UTF-8"]),
    (Rule::InvalidJsonError, &["constant", "half of a surrogate pair", "deep"]),
    (Rule::DuplicateKeyError, &["duplicate key"]),
    (Rule::TaskTypeMismatchError, &["other task"]),
    (Rule::InvalidRoleError, &["tool"]),
    (Rule::InvalidContentTypeError, &["list of parts"]),
    (Rule::SystemMessageNotFirstError, &["system behind the first"]),
    (Rule::FirstMessageNotUserError, &["user is not first"]),
];

/// Why the two disagree about a row; none if they do not, or if it is a difference that is documented.
fn disagreement(theirs: &Theirs, ours: &Ours, contexts: &[u32], line: &Line) -> Option<String> {
    let said = theirs.error.as_deref();
    let other = if line.chat { "pair" } else { "chat" };
    let has = |wanted: &str| theirs.traits.iter().any(|known| known == if wanted == "other task" { other } else { wanted });
    let agree = match ours {
        Ours::Good(measured) => {
            let kept: Vec<_> = measured.iter().map(|measured| measured.trains).collect();
            said.is_none() && kept == theirs.kept && measured.iter().all(|measured| measured.tokens == theirs.tokens)
        }
        Ours::Bad(rule) => {
            let stricter = STRICTER.iter().any(|(stricter, traits)| stricter == rule && traits.iter().any(|wanted| has(wanted)));
            said == Some(rule.as_str())
                || stricter
                || (said == Some("JSONDecodeError") && *rule == Rule::InvalidJsonError)
                // The engine asks a set for such a role and dies.
                || (said == Some("TypeError") && has("role that has no hash") && matches!(rule, Rule::InvalidRoleError | Rule::InvalidLastChatMessageRoleError))
        }
    };
    (!agree).then(|| {
        format!(
            "engine {theirs:?}\n  ours {ours:?} (contexts {contexts:?}, chat {})\n   row {:.600}",
            line.chat,
            String::from_utf8_lossy(&line.bytes)
        )
    })
}

fn task(chat: bool) -> TaskType {
    if chat { TaskType::ChatCompletion } else { TaskType::InstructionFinetune }
}

fn ours(line: &Line, model: &Model, contexts: &[u32]) -> Ours {
    let Ok(text) = std::str::from_utf8(&line.bytes) else { return Ours::Bad(Rule::InvalidUtf8Error) };
    let mut judge = Judge::new(task(line.chat));
    let row = match judge.judge(text) {
        Ok(row) => row,
        Err(broken) => return Ours::Bad(broken.rule),
    };
    let mut measured = Vec::new();
    for &context in contexts {
        match (Measure { tokenizer: &model.tokenizer, template: &model.template, context }).row(row) {
            Ok(found) => measured.push(found),
            Err(MeasureError::Broken(broken)) => return Ours::Bad(broken.rule),
            Err(MeasureError::Tokenizer(error)) => panic!("{error}"),
        }
    }
    Ours::Good(measured)
}

/// Judges the same rows by the engine and by the data path; gives how often each verdict came.
fn compare(kind: &str, seed: u64, count: usize, contexts: &[u32]) -> BTreeMap<String, usize> {
    let (folder, model) = engine::model("rows", kind);
    let lines = corpus::rows(seed, count);
    let files = engine::scratch(&format!("rows-of-{kind}"));
    let write = |name: &str, lines: &mut dyn Iterator<Item = &Line>| {
        let bytes: Vec<u8> = lines.flat_map(|line| line.bytes.iter().copied().chain([b'\n'])).collect();
        std::fs::write(files.join(name), &bytes).expect("the rows are written");
        bytes
    };
    write("all.jsonl", &mut lines.iter());
    let out = files.join("engine.jsonl");
    engine::ask(&json!({"do": "rows", "model": folder, "rows": files.join("all.jsonl"), "contexts": contexts, "out": out}));
    let theirs = std::fs::read_to_string(out).expect("the engine wrote its verdicts");
    let theirs: Vec<Theirs> = theirs.lines().map(|line| serde_json::from_str(line).expect("a verdict")).collect();
    assert_eq!(theirs.len(), lines.len());

    let ours: Vec<_> = lines.iter().map(|line| ours(line, &model, contexts)).collect();
    let found: Vec<_> =
        lines.iter().zip(&theirs).zip(&ours).filter_map(|((line, theirs), ours)| disagreement(theirs, ours, contexts, line)).collect();
    assert!(found.is_empty(), "{kind}: {} of {count} rows\n{}", found.len(), found.iter().take(8).cloned().collect::<Vec<_>>().join("\n\n"));

    // What is reported of a whole file is the sum of its rows.
    for chat in [false, true] {
        let bytes = write("one.jsonl", &mut lines.iter().filter(|line| line.chat == chat));
        for (index, &context) in contexts.iter().enumerate() {
            let measure = Measure { tokenizer: &model.tokenizer, template: &model.template, context };
            let reader = RowReader { task: task(chat), measure: Some(&measure), threads: 2, listed: 20 };
            let mut report = RowsReport::default();
            reader.read("one.jsonl", bytes.as_slice(), &mut report, None, |_| {}).expect("the rows are read");
            let of_task = lines.iter().zip(&ours).filter(|(line, _)| line.chat == chat).map(|(_, ours)| ours);
            // Only what this test can count anew is compared.
            let counted = sum(of_task, index, context);
            let expected = RowsReport { long: report.long.clone(), fingerprints: report.fingerprints.clone(), ..counted };
            assert_eq!(report, expected, "{kind}, chat {chat}, context {context}");
        }
    }
    verdicts(&ours)
}

fn sum<'o>(rows: impl Iterator<Item = &'o Ours>, index: usize, context: u32) -> RowsReport {
    let mut report = RowsReport::default();
    for row in rows {
        report.rows += 1;
        let Ours::Good(measured) = row else {
            report.bad += 1;
            continue;
        };
        let Measured { tokens, trains } = measured[index];
        report.too_long += u64::from(tokens > u64::from(context));
        report.dropped += u64::from(!trains);
        if trains {
            let length = measured[index].cut_to(context);
            report.kept += 1;
            report.tokens += u64::from(length);
            *report.lengths.entry(length).or_default() += 1;
        }
    }
    report
}

fn verdicts(ours: &[Ours]) -> BTreeMap<String, usize> {
    let mut verdicts = BTreeMap::new();
    for row in ours {
        let verdict = match row {
            Ours::Bad(rule) => rule.as_str(),
            Ours::Good(measured) if measured.iter().all(|measured| measured.trains) => "kept",
            Ours::Good(measured) if measured.iter().any(|measured| measured.trains) => "kept at some lengths",
            Ours::Good(_) => "dropped",
        };
        *verdicts.entry(verdict.to_owned()).or_default() += 1;
    }
    verdicts
}

#[test]
fn twenty_thousand_rows_have_the_engines_verdict_and_its_tokens() {
    let verdicts = compare("tiny", 1, 20_000, &[8, 64, 512, 4096]);
    println!("{verdicts:?}");
    for verdict in [
        "kept",
        "kept at some lengths",
        "dropped",
        "InvalidUtf8Error",
        "InvalidJsonError",
        "DuplicateKeyError",
        "InvalidExampleTypeError",
        "UnknownExampleTypeError",
        "TaskTypeMismatchError",
        "InvalidPromptTypeError",
        "InvalidResponseTypeError",
        "InvalidMessageTypeError",
        "NotEnoughChatDataError",
        "InvalidLastChatMessageRoleError",
        "IncorrectMessageKeyQuantityError",
        "InvalidRoleError",
        "InvalidContentTypeError",
        "ConsecutiveRepeatedChatRolesError",
        "SystemMessageNotFirstError",
        "FirstMessageNotUserError",
    ] {
        assert!(verdicts.get(verdict).is_some_and(|&count| count >= 5), "too few rows for {verdict}: {verdicts:?}");
    }
}

#[test]
fn tokenizers_of_every_family_count_what_the_engine_counts() {
    let found: BTreeMap<_, _> = (2..)
        .zip(["llama2", "llama3", "qwen", "gemma", "mpt"])
        .map(|(seed, kind)| (kind, compare(kind, seed, 1_000, &[16, 256])))
        .inspect(|found| println!("{found:?}"))
        .collect();
    assert!(found["gemma"].contains_key("ChatTemplateError"), "no row that its template refuses");
    assert!(found["qwen"].contains_key("InvalidConversationError"), "no row that its template rewrites");
}

#[test]
fn every_rule_that_is_stricter_is_documented_as_such() {
    let document = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/data-rules.md")).expect("the rules are documented");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented = rows.filter_map(|row| {
        let columns: Vec<_> = row.split(" | ").collect();
        columns.get(2).filter(|ours| !ours.trim_matches(['|', ' ']).is_empty()).map(|_| columns[0].trim_matches('`').to_owned())
    });
    let mut stricter: Vec<_> = STRICTER.iter().map(|(rule, _)| rule.as_str().to_owned()).collect();
    stricter.sort();
    let mut documented: Vec<_> = documented.collect();
    documented.sort();
    assert_eq!(documented, stricter);
}
