//! The log subscriber: lines for people, or JSON, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the log filter `{filter}` cannot be read")]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging. A second call changes nothing.
///
/// # Errors
/// The filter cannot be read.
pub fn init(filter: &str, format: LogFormat, colour: bool) -> Result<(), FilterError> {
    let parsed = EnvFilter::try_new(filter).map_err(|source| FilterError { filter: filter.to_owned(), source })?;
    let colour = colour && std::io::stderr().is_terminal();
    let base = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(parsed);
    // Logging that was already started (in tests) stays as it is.
    let _ = match format {
        LogFormat::Text => registry.with(base.with_ansi(colour).with_target(false)).try_init(),
        LogFormat::Json => registry.with(base.json().flatten_event(true)).try_init(),
    };
    Ok(())
}

/// Starts logging into a file. A second call changes nothing.
///
/// # Errors
/// The file cannot be made.
pub fn init_file(path: &camino::Utf8Path) -> std::io::Result<()> {
    let file = std::fs::File::options().create(true).append(true).open(path)?;
    let base = tracing_subscriber::fmt::layer().with_writer(std::sync::Mutex::new(file)).with_ansi(false);
    let registry = tracing_subscriber::registry().with(EnvFilter::new("info"));
    // Logging that was already started (in tests) stays as it is.
    let _ = registry.with(base.with_target(false)).try_init();
    Ok(())
}
