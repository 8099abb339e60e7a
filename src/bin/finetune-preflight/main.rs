//! `finetune-preflight`: proves credentials, places and data of a run before any accelerator is taken.

mod rows;
mod text;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use finetune_operator::preflight::run::{self, Options};

#[derive(Parser)]
#[command(name = "finetune-preflight", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Proves one run: reads its plan, writes the verdict.
    Run {
        /// The plan.
        #[arg(long, default_value = "/etc/finetune/plan.json")]
        plan: PathBuf,
        /// Where the verdict goes.
        #[arg(long, default_value = "/dev/termination-log")]
        termination_log: PathBuf,
        /// Lets addresses and folders of this machine pass.
        #[arg(long, hide = true)]
        allow_local: bool,
    },
    /// Checks files of rows, one line for each bad row; with --out it also converts them to MDS.
    Rows(rows::Arguments),
    /// Tokenizes a folder of .txt files to MDS.
    Text(text::Arguments),
}

fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::from(70);
        }
    };
    let code = match command {
        Command::Run { plan, termination_log, allow_local } => {
            ExitCode::from(runtime.block_on(run::run(&Options { plan, termination_log, allow_local }, &say)))
        }
        Command::Rows(arguments) => runtime.block_on(rows::run(arguments)),
        Command::Text(arguments) => runtime.block_on(text::run(arguments)),
    };
    // Whatever still works for a verdict that is spoken is not waited for.
    runtime.shutdown_background();
    code
}

/// A reader that is gone stops nothing; a control character could forge a line.
fn say(line: &str) {
    let clean: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = writeln!(std::io::stdout(), "{clean}");
}
