//! A folder of text files at hand, or anywhere, to MDS.

use std::process::ExitCode;

use finetune_operator::data::mds::{Layout, SHARD_BYTES};
use finetune_operator::data::ordered::threads;
use finetune_operator::data::sink::Sink;
use finetune_operator::data::source::SourceFile;
use finetune_operator::data::text::{TextReader, TextState};
use tokio::runtime::Handle;

use super::rows::Places;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder of .txt files, at any depth, on this machine or in a store.
    folder: String,
    /// Folder that the shards are written to.
    out: String,
    /// Folder of a model: its tokenizer is used.
    #[arg(long)]
    tokenizer: String,
    /// Tokens in a sample.
    #[arg(long)]
    concat_tokens: u32,
    /// Text behind each file.
    #[arg(long, default_value = "")]
    eos_text: String,
    /// Text before each file.
    #[arg(long, default_value = "")]
    bos_text: String,
    /// Uses the tokenizer's own end of text behind each file.
    #[arg(long, conflicts_with = "eos_text")]
    use_tokenizer_eos: bool,
    /// Leaves out the rest behind a full sample instead of beginning the next with it.
    #[arg(long)]
    no_wrap: bool,
    /// Threads to work on; all cores by default.
    #[arg(long)]
    threads: Option<usize>,
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    match convert(arguments).await {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn convert(arguments: Arguments) -> Result<String, String> {
    if arguments.concat_tokens == 0 {
        return Err("--concat-tokens must be at least 1".to_owned());
    }
    let places = Places::of_this_machine()?;
    let model = places.model(&arguments.tokenizer).await?;
    let files = SourceFile::find_texts(&places.open(&arguments.folder)?).await.map_err(|error| error.to_string())?;
    let out = places.make(&arguments.out)?;
    let handle = Handle::current();
    let work = move || -> Result<String, String> {
        let encode = |text: &str| model.tokenizer.encode(text, false).map_err(|error| error.to_string());
        let end_text = if arguments.use_tokenizer_eos { model.tokenizer.end_text() } else { &arguments.eos_text };
        let reader = TextReader {
            tokenizer: &model.tokenizer,
            length: arguments.concat_tokens as usize,
            begin: encode(&arguments.bos_text)?,
            end: encode(end_text)?,
            wrap: !arguments.no_wrap,
            threads: arguments.threads.unwrap_or_else(threads),
        };
        let names: Vec<_> = files.iter().map(SourceFile::name).collect();
        let mut sink = Sink::new(Layout::Tokens, SHARD_BYTES, Vec::new(), out, handle.clone());
        let report = match reader.store(&names, |index| files[index].reader(&handle, 0), TextState::default(), &mut sink) {
            Ok(report) if report.samples > 0 => report,
            Ok(report) => {
                sink.abandon();
                return Err(format!("{} tokens in {} files fill no sample of {}", report.tokens, report.files, arguments.concat_tokens));
            }
            Err(error) => {
                sink.abandon();
                return Err(error.to_string());
            }
        };
        sink.finish().map_err(|error| error.to_string())?;
        Ok(format!("{} files, {} tokens, {} samples of {}", report.files, report.tokens, report.samples, arguments.concat_tokens))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}
