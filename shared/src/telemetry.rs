//! Logs: set up once, in one form.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::environment::Environment;

/// `log.format`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Starts logging to standard error. `RUST_LOG` overrides `level`.
///
/// # Errors
///
/// A text that says what is wrong with the filter, or that logging was started before.
pub fn start(level: &str, format: LogFormat, environment: &Environment) -> Result<(), String> {
    let filter = environment.get("RUST_LOG").unwrap_or(level);
    // The libraries below write peers' addresses and hosts at their lower levels; identifiers of a
    // stranger must not come in that way.
    let filter = EnvFilter::try_new(format!("{filter},hyper=warn,hyper_util=warn,h2=warn,rustls=warn,axum=warn,tower=warn,want=warn,mio=warn"))
        .map_err(|error| format!("the log level `{filter}` cannot be used: {error}"))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let layer = if json {
        layer
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed()
    } else {
        layer
            .with_target(false)
            .with_ansi(std::io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| format!("logging cannot be started: {error}"))
}
