//! The one shape in which Trireme tells anybody that something went wrong: what, where, what was found, what is
//! allowed, what to do, who is at fault, and whether to try again.
//!
//! A [`Problem`] is made where the error is handled, never where it is thrown: crates keep their own error enums
//! inside. It crosses processes as JSON and reaches people as a few lines in the manner of the Rust compiler.

use std::fmt;

use serde::{Deserialize, Serialize};

pub use crate::error_code::{ErrorClass, ErrorCode, Fault};

/// Longest text of any one field of a [`Problem`], in bytes. A problem has five of them at most, which keeps it
/// around 10 KiB: it travels in every report, and parts of it are echoed from input that we do not control.
pub const TEXT_BYTES_MAX: usize = 2048;

/// Where in a text a problem is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Location {
    /// Name of the file as the user gave it, or `<stdin>`.
    pub source: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Path of the field, such as `spec.tables[0].location`; empty for the whole document or a text without fields.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location {
            source,
            line,
            column,
            field,
        } = self;
        write!(f, "{source}:{line}:{column}")?;
        if field.is_empty() {
            Ok(())
        } else {
            write!(f, " ({field})")
        }
    }
}

/// Something went wrong, told so that the reader can act.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Which of the published errors this is.
    pub code: ErrorCode,
    /// What is wrong, in one lower-case phrase. Never holds a secret.
    pub message: String,
    /// Where, if it is somewhere in a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<Location>,
    /// What was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// What may be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Who has to act.
    pub fault: Fault,
    /// Whether the same action, repeated unchanged, may succeed.
    pub retry: bool,
}

impl Problem {
    /// A problem with the fault and retry advice that are usual for its code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Problem {
        Problem {
            code,
            message: clip(message.into(), TEXT_BYTES_MAX),
            location: None,
            found: None,
            allowed: None,
            remedy: None,
            fault: code.fault(),
            retry: code.retry(),
        }
    }

    /// Says where it is.
    #[must_use]
    pub fn at(mut self, location: Location) -> Problem {
        self.location = Some(location);
        self
    }

    /// Says what was there.
    #[must_use]
    pub fn found(mut self, found: impl Into<String>) -> Problem {
        self.found = Some(clip(found.into(), TEXT_BYTES_MAX));
        self
    }

    /// Says what may be there.
    #[must_use]
    pub fn allowed(mut self, allowed: impl Into<String>) -> Problem {
        self.allowed = Some(clip(allowed.into(), TEXT_BYTES_MAX));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Problem {
        self.remedy = Some(clip(remedy.into(), TEXT_BYTES_MAX));
        self
    }

    /// Overrides who has to act, where the code's usual answer does not hold.
    #[must_use]
    pub fn blame(mut self, fault: Fault) -> Problem {
        self.fault = fault;
        self
    }

    /// Overrides whether a repetition may help, where the code's usual answer does not hold.
    #[must_use]
    pub fn retryable(mut self, retry: bool) -> Problem {
        self.retry = retry;
        self
    }

    /// The exit code of a process that ended for this problem.
    pub fn exit_code(&self) -> u8 {
        self.code.exit_code()
    }
}

/// Several lines for people; the first is complete on its own. No newline at the end.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `fault` and `retry` are for machines: the code and the remedy tell people the same.
        let Problem {
            code,
            message,
            location,
            found,
            allowed,
            remedy,
            fault: _,
            retry: _,
        } = self;
        write!(f, "error[{code}]: {message}")?;
        if let Some(location) = location {
            write!(f, "\n --> {location}")?;
        }
        for (label, text) in [("found", found), ("allowed", allowed), ("help", remedy)] {
            if let Some(text) = text {
                write!(f, "\n  = {label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

/// Cuts a text to at most `bytes_max` bytes, at a character, and shows that it was cut.
pub(crate) fn clip(mut text: String, bytes_max: usize) -> String {
    const MARK: &str = "...";
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max.saturating_sub(MARK.len())));
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misspelt() -> Problem {
        Problem::new(ErrorCode::ManifestUnknownField, "unknown field \"executers\"")
            .at(Location {
                source: "job.yaml".into(),
                line: 7,
                column: 3,
                field: "spec.executers".into(),
            })
            .remedy("did you mean \"executors\"?")
    }

    #[test]
    fn reads_like_a_compiler_error() {
        assert_eq!(
            misspelt().to_string(),
            "error[MANIFEST-UNKNOWN-FIELD]: unknown field \"executers\"\n \
             --> job.yaml:7:3 (spec.executers)\n  \
             = help: did you mean \"executors\"?"
        );
    }

    #[test]
    fn travels_as_json() {
        let json = serde_json::to_string(&misspelt()).unwrap();
        assert_eq!(
            json,
            "{\"code\":\"MANIFEST-UNKNOWN-FIELD\",\"message\":\"unknown field \\\"executers\\\"\",\
             \"location\":{\"source\":\"job.yaml\",\"line\":7,\"column\":3,\"field\":\"spec.executers\"},\
             \"remedy\":\"did you mean \\\"executors\\\"?\",\"fault\":\"User\",\"retry\":false}"
        );
        assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), misspelt());
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let long = "é".repeat(TEXT_BYTES_MAX);
        let problem = Problem::new(ErrorCode::Internal, long.clone()).found(long);
        assert!(problem.message.len() <= TEXT_BYTES_MAX && problem.message.ends_with("é..."));
        assert!(problem.found.unwrap().len() <= TEXT_BYTES_MAX);
        assert_eq!(clip("short".into(), 5), "short");
    }
}
