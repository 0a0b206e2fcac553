//! Logs.
//!
//! Owns the shape of what a process writes to standard error: text for people, one JSON object per line for machines.
//! Never writes to standard output, which belongs to results.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

/// Ours at info, everybody else's from warning up. `trireme` is a prefix: it covers every crate of ours.
pub const DEFAULT_FILTER: &str = "warn,trireme=info";

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; in colour on a terminal.
    #[default]
    Text,
    /// One JSON object per line, the event's fields at its top level.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not in the filter language.
    #[error("log filter {filter:?} is not understood (an example: {DEFAULT_FILTER:?})")]
    Filter {
        /// What was given.
        filter: String,
        /// Why not.
        source: ParseError,
    },
    /// A second initialisation in one process.
    #[error("logging is already set up")]
    Twice(#[source] TryInitError),
}

/// Sends this process's logs to standard error. `filter` is in the language of `tracing_subscriber::EnvFilter`;
/// without one, [`DEFAULT_FILTER`]. To be called once, before anything that logs.
pub fn init(format: LogFormat, filter: Option<&str>) -> Result<(), TelemetryError> {
    let filter = parse(filter)?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    subscriber(format, filter, colour, io::stderr)
        .try_init()
        .map_err(TelemetryError::Twice)
}

fn parse(filter: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let filter = filter.unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter {
        filter: filter.to_owned(),
        source,
    })
}

fn subscriber<W>(format: LogFormat, filter: EnvFilter, colour: bool, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Text => Box::new(builder.with_ansi(colour).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_span_list(false).finish()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: Option<&str>, emit: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = subscriber(format, parse(filter).unwrap(), false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, emit);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn by_default_ours_speak_from_info_and_libraries_from_warning() {
        let text = logged(LogFormat::Text, None, || {
            tracing::info!(target: "trireme_batch::driver", "ours");
            tracing::debug!(target: "trireme_batch::driver", "our detail");
            tracing::info!(target: "h2::server", "theirs");
            tracing::warn!(target: "h2::server", "their warning");
        });
        assert!(text.contains("ours") && text.contains("their warning"), "{text}");
        assert!(!text.contains("our detail") && !text.contains("theirs"), "{text}");
    }

    #[test]
    fn json_lines_carry_fields_at_the_top() {
        let text = logged(LogFormat::Json, Some("info"), || tracing::info!(task = 7, "done"));
        assert!(text.starts_with('{') && text.ends_with("}\n"), "{text}");
        assert!(
            text.contains(r#""message":"done""#) && text.contains(r#""task":7"#),
            "{text}"
        );
        assert!(!text.contains("\"fields\""), "{text}");
    }

    #[test]
    fn a_bad_filter_is_an_error_that_quotes_it() {
        let error = parse(Some("trireme=loud=very")).unwrap_err();
        assert!(error.to_string().contains("trireme=loud=very"), "{error}");
    }
}
