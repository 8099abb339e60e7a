//! The operator's log: one line an event on standard error, as text or JSON, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors.
    Json,
}

/// What is logged when `RUST_LOG` does not say.
const DEFAULT_FILTER: &str = "info";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is no filter.
    #[error("read the filter in RUST_LOG")]
    Filter(#[from] tracing_subscriber::filter::FromEnvError),
    /// Another log was set up before.
    #[error("set up the log")]
    Init(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up the log of this process.
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    let filter = match std::env::var_os(EnvFilter::DEFAULT_ENV) {
        Some(_) => EnvFilter::try_from_default_env()?,
        None => EnvFilter::new(DEFAULT_FILTER),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}
