//! The one process that runs the engine's own code; tests ask it one after another.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use finetune_operator::data::model::Model;
use finetune_operator::data::tokenizer::TokenizerFiles;
use serde_json::{Value, json};

/// Longest that one question may take, the start of the process with it.
const PATIENCE: Duration = Duration::from_secs(400);

static ENGINE: LazyLock<Mutex<Engine>> = LazyLock::new(|| Mutex::new(Engine::start()));

struct Engine {
    questions: ChildStdin,
    answers: Receiver<String>,
}

/// A folder for a test's files, empty; what it leaves is removed by the next run.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("differential").join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("the scratch folder is made");
    folder
}

/// Asks the engine; it answers with a map. Its failure is the test's.
pub(crate) fn ask(question: &Value) -> Value {
    let mut engine = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(engine.questions, "{question}").expect("the engine listens");
    let answer = engine.answers.recv_timeout(PATIENCE).expect("the engine answers; what it printed is in engine.log of the scratch folder");
    let answer: Value = serde_json::from_str(&answer).expect("an answer is JSON");
    assert!(answer.get("failed").is_none(), "{}", answer["failed"].as_str().unwrap_or_default());
    answer
}

/// Makes a small model of this kind for a test, and loads it as the data path does.
pub(crate) fn model(test: &str, kind: &str) -> (PathBuf, Model) {
    let folder = scratch(&format!("{test}-{kind}"));
    ask(&json!({"do": "model", "kind": kind, "folder": folder}));
    let read = |name| std::fs::read(folder.join(name)).ok();
    let files = TokenizerFiles {
        tokenizer: read("tokenizer.json").expect("the model has a tokenizer"),
        config: read("tokenizer_config.json"),
        special_tokens: read("special_tokens_map.json"),
        template: read("chat_template.jinja"),
        model: read("config.json"),
    };
    let model = Model::new(&files, None).expect("the model can be used");
    (folder, model)
}

impl Engine {
    fn start() -> Self {
        let trainer = std::env::var_os("FINETUNE_TRAINER").map(PathBuf::from).filter(|path| path.is_dir());
        let trainer = trainer.expect("FINETUNE_TRAINER must name the trainer's environment: run the tests with `make test`");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let log = File::create(scratch("engine").join("engine.log")).expect("the log is made");
        let mut process = Command::new(trainer.join("bin/python"))
            .arg(root.join("tests/differential/engine.py"))
            .env("PYTHONPATH", root.join("runtimes/llm-foundry"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HF_HUB_OFFLINE", "1")
            .env("PYTHONUTF8", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the trainer's environment has a Python");
        let questions = process.stdin.take().expect("the engine has an input");
        let output = BufReader::new(process.stdout.take().expect("the engine has an output"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let _ = output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line));
            // It ends when its input does.
            process.wait()
        });
        Self { questions, answers }
    }
}
