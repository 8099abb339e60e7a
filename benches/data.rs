//! The data path beside the training engine's own code, on the same files: rows judged, rows measured, text converted.
//! Both run one thread, and processor time is what is compared, so other work on the machine disturbs little.
//!
//! `cargo bench --bench data -- [--large] [FOLDER]`: text comes from the text and source files below FOLDER; without one
//! it is made up, with words as frequent as in a natural language, always the same. `--large` adds files of 1 GB and
//! 10 GB, which only our program reads, to see what memory it takes.

use std::error::Error;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error>>;

const MB: usize = 1_000_000;
/// What both sides read.
const COMPARED: usize = 60 * MB;
const CONTEXT: &str = "2048";

fn main() -> Outcome<()> {
    // Cargo adds `--bench`.
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let folder = arguments.iter().find(|argument| !argument.starts_with("--")).map(PathBuf::from);
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("data-bench");
    let _ = fs::remove_dir_all(&scratch);
    let bench = Bench { text: gather(folder.as_deref(), COMPARED)?, scratch };
    let done = bench.run(arguments.iter().any(|argument| argument == "--large"));
    fs::remove_dir_all(&bench.scratch)?;
    done
}

struct Bench {
    text: String,
    scratch: PathBuf,
}

/// What one run of our program took.
struct Took {
    processor: Duration,
    wall: Duration,
    peak_kib: u64,
}

impl Bench {
    fn run(&self, large: bool) -> Outcome<()> {
        let at = |name: &str| self.scratch.join(name);
        fs::create_dir_all(at("text"))?;
        for (index, piece) in pieces(&self.text, 2 * MB).enumerate() {
            fs::write(at("text").join(format!("{index:03}.txt")), piece)?;
        }
        let chat = |size| {
            self.rows(size, |prompt, answer| json!({"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}))
        };
        let pairs = |size| self.rows(size, |prompt, answer| json!({"prompt": prompt, "response": answer}));
        fs::write(at("chat.jsonl"), chat(COMPARED))?;
        fs::write(at("pairs.jsonl"), pairs(COMPARED))?;
        fs::write(at("ten-thousand.jsonl"), chat(COMPARED).split_inclusive('\n').take(10_000).collect::<String>())?;
        println!("{} MB of text, as much in rows; one thread each; MB for each second of processor time", self.text.len() / MB);

        let theirs = self.engine()?;
        let tokenizer = at("tokenizer");
        let size = |name: &str| fs::metadata(at(name)).map(|data| data.len());
        println!("{:34}{:>12}{:>12}{:>8}", "", "LLM Foundry", "ours", "ratio");
        let line = |what: &str, key: &str, bytes: u64, arguments: &[&str]| -> Outcome<()> {
            let took = self.preflight(arguments)?;
            #[allow(clippy::cast_precision_loss)]
            let rate = bytes as f64 / 1e6 / took.processor.as_secs_f64();
            let their_rate = theirs[key].as_f64().ok_or("the engine gave no rate")?;
            println!("{what:34}{their_rate:>12.2}{rate:>12.1}{:>8.0}   peak {} MiB", rate / their_rate, took.peak_kib / 1024);
            Ok(())
        };
        let (chat_file, pairs_file) = (text(&at("chat.jsonl")), text(&at("pairs.jsonl")));
        let model = text(&tokenizer);
        let measured = ["--tokenizer", &model, "--context-length", CONTEXT];
        let chat_rows = ["rows", &chat_file, "--task-type", "CHAT_COMPLETION", "--threads", "1"];
        let pair_rows = ["rows", &pairs_file, "--task-type", "INSTRUCTION_FINETUNE", "--threads", "1"];
        line("chat rows, judged", "chat", size("chat.jsonl")?, &chat_rows)?;
        line("pairs, judged", "pairs", size("pairs.jsonl")?, &pair_rows)?;
        line("chat rows, judged and measured", "chatMeasured", size("chat.jsonl")?, &[&chat_rows[..], &measured].concat())?;
        line("pairs, judged and measured", "pairsMeasured", size("pairs.jsonl")?, &[&pair_rows[..], &measured].concat())?;
        let (folder, out) = (text(&at("text")), text(&at("mds")));
        let convert = ["text", &folder, &out, "--tokenizer", &model, "--concat-tokens", CONTEXT, "--use-tokenizer-eos", "--threads", "1"];
        line("text to MDS", "text", self.text.len() as u64, &convert)?;
        let took = self.preflight(&["rows", &text(&at("ten-thousand.jsonl")), "--task-type", "CHAT_COMPLETION"])?;
        println!("10,000 chat rows, from the start of the program to its verdict: {:.0} ms", took.wall.as_secs_f64() * 1e3);
        if large { self.large(&convert) } else { Ok(()) }
    }

    /// What memory our program takes for files of 10 MB, 1 GB and 10 GB, on all cores.
    fn large(&self, convert: &[&str]) -> Outcome<()> {
        let rows = text(&self.scratch.join("large.jsonl"));
        let mut task = vec!["rows", "--task-type", "CHAT_COMPLETION"];
        let chat = fs::read(self.scratch.join("chat.jsonl"))?;
        fs::write(&rows, &chat[..=chat[..10 * MB].iter().rposition(|&byte| byte == b'\n').ok_or("no row")?])?;
        self.peak("rows, 10 MB", &[&task[..], &[&rows]].concat())?;
        let mut file = fs::File::create(&rows)?;
        for _ in 0..1000 * MB / chat.len() {
            file.write_all(&chat)?;
        }
        self.peak("rows, 1 GB", &[&task[..], &[&rows]].concat())?;
        task.extend(std::iter::repeat_n(rows.as_str(), 10));
        self.peak("rows, 10 GB", &task)?;
        fs::remove_file(&rows)?;
        let folder = self.scratch.join("text");
        let names: Vec<_> = fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
        let threads_of_all = &convert[..convert.len() - 2];
        self.peak("text, 60 MB", threads_of_all)?;
        for copy in 1..1000 * MB / self.text.len() {
            for name in &names {
                fs::hard_link(name.path(), folder.join(format!("{copy:02}-{}", text(Path::new(&name.file_name())))))?;
            }
        }
        self.peak("text, 1 GB", threads_of_all)
    }

    fn peak(&self, what: &str, arguments: &[&str]) -> Outcome<()> {
        let took = self.preflight(arguments)?;
        println!(
            "{what:34} peak {} MiB, {:.1} s, {:.1} s of processor time",
            took.peak_kib / 1024,
            took.wall.as_secs_f64(),
            took.processor.as_secs_f64()
        );
        Ok(())
    }

    /// Rows of two to forty lines of the text.
    fn rows(&self, size: usize, row: impl Fn(&str, &str) -> Value) -> String {
        let rng = &mut Rng::with_seed(3);
        let mut out = String::with_capacity(size + (size >> 4));
        let mut lines = self.text.lines().cycle();
        let mut some = |most: usize| (0..rng.usize(1..most)).filter_map(|_| lines.next()).collect::<Vec<_>>().join("\n");
        while out.len() < size {
            out.push_str(&row(&some(8), &some(32)).to_string());
            out.push('\n');
        }
        out
    }

    /// Trains the tokenizer and runs the engine's own code, in one process.
    fn engine(&self) -> Outcome<Value> {
        let trainer = std::env::var("FINETUNE_TRAINER").map_err(|_| "FINETUNE_TRAINER must name the trainer's environment: use `make bench`")?;
        let output = Command::new(Path::new(&trainer).join("bin/python"))
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/benches/engine.py"), &text(&self.scratch), CONTEXT])
            .envs([("PYTHONUTF8", "1"), ("HF_HUB_OFFLINE", "1"), ("TOKENIZERS_PARALLELISM", "false"), ("PYTHONDONTWRITEBYTECODE", "1")])
            .stderr(Stdio::null())
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        Ok(serde_json::from_str(said.lines().last().ok_or("the engine said nothing: run benches/engine.py by hand")?)?)
    }

    fn preflight(&self, arguments: &[&str]) -> Outcome<Took> {
        let _ = fs::remove_dir_all(self.scratch.join("mds"));
        let (before, began) = (processor_of_children()?, Instant::now());
        let mut child = Command::new(env!("CARGO_BIN_EXE_finetune-preflight")).args(arguments).stdout(Stdio::null()).spawn()?;
        let mut peak_kib = 0;
        let status = loop {
            // The system's own record of the highest, which goes with the process.
            let state = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = state.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            peak_kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(peak_kib);
            if let Some(status) = child.try_wait()? {
                break status;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let wall = began.elapsed();
        if !status.success() {
            return Err(format!("finetune-preflight {arguments:?} failed").into());
        }
        Ok(Took { processor: processor_of_children()?.saturating_sub(before), wall, peak_kib })
    }
}

/// Processor time of the children that were waited for; the system counts it in hundredths of a second.
fn processor_of_children() -> Outcome<Duration> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.get(13).ok_or("no time")?.parse::<u64>()? + fields.get(14).ok_or("no time")?.parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A text in pieces of about so many bytes.
fn pieces(text: &str, size: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let end = rest.as_bytes().iter().skip(size).position(|&byte| byte == b'\n').map_or(rest.len(), |at| size + at + 1);
        let (piece, behind) = rest.split_at(end.min(rest.len()));
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// So many bytes of text.
fn gather(folder: Option<&Path>, size: usize) -> Outcome<String> {
    let mut text = String::with_capacity(size + MB);
    let Some(folder) = folder else {
        let rng = &mut Rng::with_seed(2);
        let words: Vec<_> = (0..50_000).map(|_| word(rng)).collect();
        while text.len() < size {
            sentence(rng, &words, &mut text);
        }
        return Ok(text);
    };
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            if text.len() >= size {
                return Ok(text);
            }
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if matches!(
                entry.path().extension().and_then(|end| end.to_str()),
                Some("txt" | "md" | "rst" | "rs" | "go" | "py" | "html" | "c" | "h")
            ) {
                text.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
                text.push('\n');
            }
        }
    }
    if text.len() < size { Err(format!("the folder has {} MB of text, {} are needed", text.len() / MB, size / MB).into()) } else { Ok(text) }
}

/// A made-up word of one to four syllables.
fn word(rng: &mut Rng) -> String {
    const ONSETS: [&str; 22] = ["b", "c", "d", "f", "g", "h", "l", "m", "n", "p", "r", "s", "t", "v", "w", "th", "st", "ch", "br", "tr", "é", "qu"];
    const ENDS: [&str; 20] = ["a", "e", "i", "o", "u", "an", "en", "in", "on", "er", "ar", "al", "ed", "ing", "y", "ess", "ate", "ion", "ow", "ea"];
    (0..rng.usize(1..=4)).map(|_| ONSETS[rng.usize(..ONSETS.len())].to_owned() + ENDS[rng.usize(..ENDS.len())]).collect()
}

/// The word of rank r comes with a frequency of about 1/r, as in natural languages.
fn sentence(rng: &mut Rng, words: &[String], out: &mut String) {
    let length = rng.usize(4..24);
    for index in 0..length {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rank = (words.len() as f64).powf(rng.f64()) as usize - 1;
        let word = &words[rank.min(words.len() - 1)];
        if index == 0 {
            let mut letters = word.chars();
            out.extend(letters.next().into_iter().flat_map(char::to_uppercase));
            out.push_str(letters.as_str());
        } else {
            out.push_str(word);
        }
        out.push_str(match (index + 1 == length, rng.u8(..40)) {
            (true, _) => ".",
            (_, 0..3) => ", ",
            (_, 3) => " 1984 ",
            (_, 4) => "'s ",
            _ => " ",
        });
    }
    out.push_str(if rng.u8(..4) == 0 { "\n" } else { " " });
}
