//! A set of small numbers as a short text: `1-3,7`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Numbers of pods. A thousand of them in one piece are eight characters; in a status, a list would be a page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Numbers(pub BTreeSet<u32>);

/// Numbers of one job, at most: twice the executors that it may have, since old ones leave while new ones come.
const COUNT_MAX: usize = 4_000;

/// A text that is no set of numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a set of numbers such as 1-3,7: {0:?}")]
pub struct NotNumbers(String);

impl Numbers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last == first {
                true => write!(f, "{separator}{first}")?,
                false => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for Numbers {
    type Err = NotNumbers;

    fn from_str(text: &str) -> Result<Numbers, NotNumbers> {
        let bad = || NotNumbers(text.chars().take(64).collect());
        let mut numbers = BTreeSet::new();
        for piece in text.split(',').filter(|piece| !piece.is_empty()) {
            let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
            let (first, last): (u32, u32) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
            let many = usize::try_from(last.saturating_sub(first)).unwrap_or(usize::MAX);
            if first > last || numbers.len() + many >= COUNT_MAX {
                return Err(bad());
            }
            numbers.extend(first..=last);
        }
        Ok(Numbers(numbers))
    }
}

impl TryFrom<String> for Numbers {
    type Error = NotNumbers;

    fn try_from(text: String) -> Result<Numbers, NotNumbers> {
        text.parse()
    }
}

impl From<Numbers> for String {
    fn from(numbers: Numbers) -> String {
        numbers.to_string()
    }
}

impl FromIterator<u32> for Numbers {
    fn from_iter<I: IntoIterator<Item = u32>>(numbers: I) -> Numbers {
        Numbers(numbers.into_iter().collect())
    }
}

impl JsonSchema for Numbers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Numbers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 32768 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_text() {
        for (numbers, text) in [(vec![], ""), (vec![7], "7"), (vec![1, 2, 3, 7, 9, 10], "1-3,7,9-10")] {
            let set: Numbers = numbers.into_iter().collect();
            assert_eq!(set.to_string(), text);
            assert_eq!(text.parse(), Ok(set));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["a", "1-", "3-1", "1-4294967295", "-", "1,-2"] {
            assert!(text.parse::<Numbers>().is_err(), "{text}");
        }
    }
}
