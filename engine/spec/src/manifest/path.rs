//! Paths of fields, such as `spec.tables[0].location`.

use std::fmt;

/// One step from a value to a value inside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

/// The way from the root of a manifest to a value. Empty for the root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldPath(pub(super) Vec<Step>);

impl FieldPath {
    /// Reads a JSON pointer (RFC 6901). A step of digits is taken for an index; `Node::locate` accepts both.
    pub(super) fn from_pointer(pointer: &str) -> FieldPath {
        let step = |text: &str| match text.parse() {
            Ok(index) => Step::Index(index),
            Err(_) => Step::Key(text.replace("~1", "/").replace("~0", "~")),
        };
        FieldPath(pointer.split('/').skip(1).map(step).collect())
    }

    /// Reads a path in the notation of [`fmt::Display`]. Keys must hold neither a dot nor a bracket.
    pub(super) fn parse(text: &str) -> FieldPath {
        let mut steps = Vec::new();
        for part in text.split(['.', '[']).filter(|part| !part.is_empty()) {
            steps.push(match part.strip_suffix(']').and_then(|index| index.parse().ok()) {
                Some(index) => Step::Index(index),
                None => Step::Key(part.to_owned()),
            });
        }
        FieldPath(steps)
    }

    /// The path of a field inside the value at this path.
    pub(super) fn key(&self, key: &str) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        FieldPath(steps)
    }

    /// The path of an item of the list at this path.
    pub(super) fn index(&self, index: usize) -> FieldPath {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        FieldPath(steps)
    }

    /// The name of the last field on the way: how a message calls the value. `None` for the root.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if is_plain(key) => write!(f, "{}{key}", if at == 0 { "" } else { "." })?,
                Step::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// Whether a key can stand in a path without quotes.
fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_notations() {
        let path = FieldPath::from_pointer("/spec/tables/0/location");
        assert_eq!(path.to_string(), "spec.tables[0].location");
        assert_eq!(FieldPath::parse("spec.tables[0].location"), path);
        assert_eq!(path.name(), Some("location"));
        assert_eq!(FieldPath::from_pointer("/spec/tables/0").name(), Some("tables"));
        assert_eq!(FieldPath::from_pointer(""), FieldPath::default());
        assert_eq!(FieldPath::parse(""), FieldPath::default());
    }

    #[test]
    fn quotes_keys_that_are_not_plain() {
        let path = FieldPath::from_pointer("/metadata/labels/app.kubernetes.io~1name");
        assert_eq!(path.to_string(), "metadata.labels[\"app.kubernetes.io/name\"]");
    }
}
