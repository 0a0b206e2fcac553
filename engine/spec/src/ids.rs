//! The ids that all crates use for the same things. Types, not integers, so that one cannot stand for another.
//!
//! Names of jobs are checked when they are made; the other ids are made by Trireme's own code.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The name of a job: a DNS label of at most [`JobName::CHARS_MAX`] characters that begins with a letter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(String);

/// A text that cannot name a job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a job name: {0:?}")]
pub struct InvalidJobName(String);

impl JobName {
    /// 63, the most that a DNS label may have, less 11 for what names of pods add: `-exec-99999` or `-driver-999`.
    pub const CHARS_MAX: usize = 52;

    /// The accepted form but for the length, as a regular expression: a label of RFC 1035. The name of the driver's Service
    /// begins with that of its job, and no Service may begin with a digit.
    pub const PATTERN: &'static str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";

    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<JobName, InvalidJobName> {
        let name = name.into();
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=JobName::CHARS_MAX).contains(&name.len())
            && name.bytes().all(inner)
            && name.starts_with(|first: char| first.is_ascii_lowercase())
            && !name.ends_with('-');
        if valid {
            Ok(JobName(name))
        } else {
            Err(InvalidJobName(crate::problem::clip(name, 80)))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for JobName {
    type Error = InvalidJobName;

    fn try_from(name: String) -> Result<JobName, InvalidJobName> {
        JobName::new(name)
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> String {
        name.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl JsonSchema for JobName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "JobName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": JobName::PATTERN,
            "minLength": 1,
            "maxLength": JobName::CHARS_MAX,
        })
    }
}

/// One life of a worker process. A worker that was declared lost never returns under the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// The id with this text.
    pub fn new(id: impl Into<String>) -> WorkerId {
        WorkerId(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number_ids {
    ($($(#[doc = $doc:literal])+ $name:ident($number:ty);)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

number_ids! {
    /// A stage of a statement's plan: the part between two shuffles. Unique within its statement.
    StageId(u32);
    /// One try at running one task. Unique within its job, and larger for a later try.
    AttemptId(u64);
    /// One life of a job's driver. A commit carries it, and one of an older generation is refused.
    Generation(u64);
}

impl Generation {
    /// The generation of the driver that takes over from this one.
    #[must_use]
    pub const fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_dns_labels_with_room_for_a_suffix() {
        for name in ["a", "a0", "revenue", "tpch-q1", &"a".repeat(JobName::CHARS_MAX)] {
            assert_eq!(JobName::new(name).unwrap().as_str(), name);
        }
        for name in [
            "",
            "0",
            "2026-report",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "é",
            &"a".repeat(JobName::CHARS_MAX + 1),
        ] {
            assert!(JobName::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn ids_travel_as_plain_values() {
        assert_eq!(
            serde_json::to_string(&(StageId(3), Generation(7), WorkerId::new("w-1"))).unwrap(),
            "[3,7,\"w-1\"]"
        );
        assert!(serde_json::from_str::<JobName>("\"Not a label\"").is_err());
    }

    proptest! {
        #[test]
        fn code_and_pattern_agree(name in "[-a-zA0-9.]{0,6}") {
            let schema = serde_json::json!({ "pattern": JobName::PATTERN });
            prop_assert_eq!(jsonschema::is_valid(&schema, &name.as_str().into()), JobName::new(name).is_ok());
        }
    }
}
