//! Files of rows at hand, or anywhere: one line for each bad row, a summary, and MDS if wanted.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;
use finetune_operator::api::TaskType;
use finetune_operator::data::fitting;
use finetune_operator::data::mds::{Layout, SHARD_BYTES};
use finetune_operator::data::model::Model;
use finetune_operator::data::ordered::threads;
use finetune_operator::data::rows::{Output, RowReader, RowsReport};
use finetune_operator::data::rule::BadRow;
use finetune_operator::data::sink::Sink;
use finetune_operator::data::source::{Location, SourceFile};
use finetune_operator::data::tokenizer::TokenizerFiles;
use finetune_operator::data::turns::Measure;
use finetune_operator::preflight::address::Policy;
use finetune_operator::preflight::dial::Dialer;
use finetune_operator::preflight::mounted::Mounted;
use finetune_operator::preflight::plan::S3Endpoint;
use finetune_operator::preflight::store::Stores;
use serde_json::json;
use tokio::runtime::Handle;

#[derive(Clone, Copy, ValueEnum)]
enum Task {
    #[value(name = "INSTRUCTION_FINETUNE", alias = "instruction-finetune")]
    InstructionFinetune,
    #[value(name = "CHAT_COMPLETION", alias = "chat-completion")]
    ChatCompletion,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Files of rows: .jsonl, .jsonl.gz, .jsonl.zst or .parquet, on this machine or in a store.
    #[arg(required = true)]
    files: Vec<String>,
    /// How rows are read.
    #[arg(long)]
    task_type: Task,
    /// Folder of a model: rows are measured with its tokenizer and chat template.
    #[arg(long)]
    tokenizer: Option<String>,
    /// Longest sequence in tokens.
    #[arg(long, requires = "tokenizer", default_value_t = u32::MAX)]
    context_length: u32,
    /// How bad rows and the summary are written.
    #[arg(long, default_value = "text")]
    format: Format,
    /// Folder that the good rows are written to as MDS; nothing is written if any row is bad.
    #[arg(long)]
    out: Option<String>,
    /// Threads to work on; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match check(arguments).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Places as a person at their own machine reaches them: with their own credentials, and on this machine too.
pub(crate) struct Places(Stores);

impl Places {
    pub(crate) fn of_this_machine() -> Result<Self, String> {
        let dialer = Dialer::new(Policy::open()).map_err(|error| error.to_string())?;
        let text = |value: std::ffi::OsString| value.into_string().ok();
        let environment: BTreeMap<_, _> = std::env::vars_os().filter_map(|(name, value)| text(name).zip(text(value))).collect();
        let get = |names: [&str; 2]| names.into_iter().find_map(|name| environment.get(name).cloned());
        let s3 = S3Endpoint { endpoint_url: get(["S3_ENDPOINT_URL", "AWS_ENDPOINT_URL"]), region: get(["AWS_REGION", "AWS_DEFAULT_REGION"]) };
        Ok(Self(Stores::new(dialer, Mounted::new(&[]), Some(s3), environment)))
    }

    /// Opens a path of the command line: one without a scheme is on this machine.
    pub(crate) fn open(&self, path: &str) -> Result<Location, String> {
        if !path.contains("://") {
            return Location::of_file(path.as_ref()).map_err(|error| format!("{path}: {error}"));
        }
        self.0.open(path).map(|opened| opened.location()).map_err(|failure| failure.message)
    }

    /// The same for a folder that is written to.
    pub(crate) fn make(&self, path: &str) -> Result<Location, String> {
        let location = self.open(path)?;
        if let Some(folder) = &location.file {
            std::fs::create_dir_all(folder).map_err(|error| format!("{path}: {error}"))?;
        }
        Ok(location)
    }

    pub(crate) async fn model(&self, path: &str) -> Result<Model, String> {
        let location = self.open(path)?;
        let files = TokenizerFiles::gather(async |name, limit| location.read(name, limit).await).await;
        let files = files.map_err(|error| error.to_string())?.ok_or_else(|| format!("{path} has no tokenizer.json"))?;
        Model::new(&files, None).map_err(|error| format!("{path}: {error}"))
    }
}

async fn check(arguments: Arguments) -> Result<u64, String> {
    let places = Places::of_this_machine()?;
    let model = match &arguments.tokenizer {
        Some(path) => Some(places.model(path).await?),
        None => None,
    };
    let mut files = Vec::with_capacity(arguments.files.len());
    for file in &arguments.files {
        files.push(SourceFile::find(&places.open(file)?).await.map_err(|error| error.to_string())?);
    }
    let out = arguments.out.as_deref().map(|out| places.make(out)).transpose()?;
    let handle = Handle::current();
    let work = move || -> Result<u64, String> {
        let measure =
            model.as_ref().map(|model| Measure { tokenizer: &model.tokenizer, template: &model.template, context: arguments.context_length });
        let (task, layout) = match arguments.task_type {
            Task::InstructionFinetune => (TaskType::InstructionFinetune, Layout::Pair),
            Task::ChatCompletion => (TaskType::ChatCompletion, Layout::Chat),
        };
        let reader = RowReader { task, measure: measure.as_ref(), threads: arguments.threads.unwrap_or_else(threads), listed: usize::MAX };
        let mut sink = out.map(|out| Sink::new(layout, SHARD_BYTES, Vec::new(), out, handle.clone()));
        let mut report = RowsReport::default();
        let mut printer = Printer::new(arguments.format);
        for (number, file) in files.iter().enumerate() {
            let output = sink.as_mut().map(|sink| Output { sink, file: number, stored: 0 });
            let blocks = file.blocks(&handle, 0, 1).map_err(|error| format!("{}: {error}", file.name()))?;
            let read = reader.read_blocks(&file.name(), blocks, &mut report, output, |row| printer.row(&row));
            if let Err(error) = read {
                if let Some(sink) = sink {
                    sink.abandon();
                }
                return Err(error.to_string());
            }
        }
        match sink {
            Some(sink) if report.bad == 0 && report.kept > 0 => {
                sink.finish().map_err(|error| error.to_string())?;
            }
            Some(sink) => sink.abandon(),
            None => {}
        }
        report.fingerprints.sort();
        printer.summary(files.len(), measure.as_ref().map(|measure| measure.context), &report);
        Ok(report.bad)
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// Writes lines to standard output, in one piece each.
struct Printer {
    format: Format,
    out: std::io::BufWriter<std::io::Stdout>,
}

impl Printer {
    fn new(format: Format) -> Self {
        Self { format, out: std::io::BufWriter::new(std::io::stdout()) }
    }

    /// A reader that has gone away, like `head`, is no reason to fail: the exit code still says what was found.
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    fn row(&mut self, row: &BadRow) {
        let line = if self.format == Format::Json { json!(row).to_string() } else { row.to_string() };
        self.line(&line);
    }

    fn summary(&mut self, files: usize, context: Option<u32>, report: &RowsReport) {
        let RowsReport { rows, bad, dropped, too_long, tokens, kept, .. } = report;
        let duplicates = report.fingerprints.duplicates();
        let advice = context.and_then(|context| fitting::advice(rows - bad, &report.long, context));
        let line = match (self.format, context) {
            (Format::Json, Some(_)) => json!({"files": files, "rows": rows, "bad": bad, "duplicates": duplicates, "kept": kept, "dropped": dropped,
                "tooLong": too_long, "tokens": tokens, "advice": advice})
            .to_string(),
            (Format::Json, None) => json!({"files": files, "rows": rows, "bad": bad, "duplicates": duplicates, "kept": kept}).to_string(),
            (Format::Text, Some(_)) => format!(
                "{rows} rows in {files} files: {bad} bad, {duplicates} the same as an earlier one, {kept} kept with {tokens} tokens, {dropped} dropped because nothing in \
                 them trains, {too_long} longer than the context"
            ),
            (Format::Text, None) => format!("{rows} rows in {files} files: {bad} bad, {duplicates} the same as an earlier one"),
        };
        self.line(&line);
        if let (Format::Text, Some(advice)) = (self.format, advice) {
            self.line(&advice);
        }
        let _ = self.out.flush();
    }
}
