//! Logs: set up once, in one form.

use std::{
    io::{self, IsTerminal as _},
    sync::{Arc, Mutex, PoisonError},
};

use tracing_subscriber::{
    EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::{
    environment::Environment,
    yaml::{Scalar, Section, Value},
};

/// `log:`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// `level` (default `info`): a level or a `RUST_LOG` filter
    pub level: String,
    /// `format` (default `auto`)
    pub format: LogFormat,
    /// `unsafe_identifiers` (default false)
    pub unsafe_identifiers: bool,
}

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

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::Auto,
            unsafe_identifiers: false,
        }
    }
}

impl Log {
    /// Reads `log:` of a configuration; `module` is the crate that an example of a filter names. It is the
    /// caller who finishes the section.
    #[must_use]
    pub fn read(section: &Section<'_>, module: &str) -> Self {
        let defaults = Self::default();
        Self {
            level: section
                .get("level")
                .and_then(|value| read_level(&value, module))
                .unwrap_or(defaults.level),
            format: section
                .get("format")
                .and_then(|value| {
                    value.choice(&[
                        ("auto", LogFormat::Auto),
                        ("text", LogFormat::Text),
                        ("json", LogFormat::Json),
                    ])
                })
                .unwrap_or(defaults.format),
            unsafe_identifiers: section
                .get("unsafe_identifiers")
                .and_then(|value| value.boolean())
                .unwrap_or(defaults.unsafe_identifiers),
        }
    }
}

/// Starts logging to standard error. `RUST_LOG` overrides `level`.
///
/// # Errors
///
/// A text that says what is wrong with the filter, or that logging was started before.
pub fn start(level: &str, format: LogFormat, environment: &Environment) -> Result<(), String> {
    let filter = filter(environment.get("RUST_LOG").unwrap_or(level))?;
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
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
            .with_ansi(io::stderr().is_terminal())
            .boxed()
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()
        .map_err(|error| format!("logging cannot be started: {error}"))
}

/// The lines of a log that is kept in memory.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<Vec<u8>>>);

impl Record {
    /// All lines so far.
    #[must_use]
    pub fn text(&self) -> String {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl io::Write for Record {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts logging into memory, without a limit, what [`start`] would write to standard error as text: for
/// a demonstration of what is logged.
///
/// # Errors
///
/// As [`start`].
pub fn record(level: &str) -> Result<Record, String> {
    let record = Record::default();
    let writer = record.clone();
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(move || writer.clone())
        .with_target(false)
        .with_ansi(false);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter(level)?))
        .try_init()
        .map_err(|error| format!("logging cannot be started: {error}"))?;
    Ok(record)
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    // The libraries below write peers' addresses and hosts at their lower levels; identifiers of a
    // stranger must not come in that way.
    EnvFilter::try_new(format!("{level},hyper=warn,hyper_util=warn,h2=warn,rustls=warn,axum=warn,tower=warn,want=warn,mio=warn,dimpl=error"))
        .map_err(|error| format!("the log level `{level}` cannot be used: {error}"))
}

/// A level, or directives such as `info,turn_relay=debug`. A word that is no level would be taken for
/// a module's name, and everything else would fall silent.
fn read_level(value: &Value<'_>, module: &str) -> Option<String> {
    const LEVELS: [(&str, ()); 6] = [
        ("off", ()),
        ("error", ()),
        ("warn", ()),
        ("info", ()),
        ("debug", ()),
        ("trace", ()),
    ];
    let is_level = |word: &str| {
        LEVELS
            .iter()
            .any(|(level, ())| level.eq_ignore_ascii_case(word))
    };
    let (_, text) = value.meaning().unwrap_or((Scalar::Null, ""));
    let directives = || text.split(',').map(str::trim);
    if text.contains(['=', ',']) {
        let valid = directives().all(|directive| {
            let level = directive
                .rsplit_once('=')
                .map_or(directive, |(_, level)| level);
            is_level(level)
        });
        if !valid {
            value.unexpected(format_args!("directives such as `info,{module}=debug`"));
        }
        return valid.then(|| text.to_owned());
    }
    if is_level(text) {
        return Some(text.to_ascii_lowercase());
    }
    value.choice(&LEVELS).map(|()| text.to_owned())
}
