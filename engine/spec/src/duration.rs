//! Lengths of time as manifests write them.
//!
//! A strict subset of Go's `time.ParseDuration`, which is what Kubernetes uses: units from hours to milliseconds,
//! from large to small, each at most once, no sign and no fraction. What is accepted here means the same there.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole milliseconds. Written in the manner of Kubernetes: `500ms`, `30s`, `1m30s`, `2h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    ms: u64,
}

/// Units from large to small, in milliseconds.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Most digits of one number. 10^9 hours are 3.6 * 10^15 ms, so a sum of four cannot overflow 64 bits.
const DIGITS_MAX: usize = 9;

/// A text that is not of the form that [`Period::PATTERN`] describes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration: {0:?}")]
pub struct ParsePeriodError(String);

impl Period {
    /// The accepted form, as a regular expression; the empty text, which it also matches, is refused by length.
    pub const PATTERN: &'static str = r"^([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?$";

    /// So many milliseconds.
    pub const fn millis(ms: u64) -> Period {
        Period { ms }
    }

    /// So many seconds.
    pub const fn seconds(seconds: u32) -> Period {
        Period {
            ms: seconds as u64 * 1_000,
        }
    }

    /// So many minutes.
    pub const fn minutes(minutes: u32) -> Period {
        Period {
            ms: minutes as u64 * 60_000,
        }
    }

    /// The same as the standard library's type.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.ms)
    }

    /// The number of whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.ms
    }
}

impl FromStr for Period {
    type Err = ParsePeriodError;

    fn from_str(text: &str) -> Result<Period, ParsePeriodError> {
        let form = || ParsePeriodError(crate::problem::clip(text.to_owned(), 64));
        let mut rest = text;
        let mut units = UNITS.iter();
        let mut ms = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
            let (name, tail) = tail.split_at(letters);
            if !(1..=DIGITS_MAX).contains(&digits) {
                return Err(form());
            }
            // `find` continues behind the last unit found, which is what forbids repetition and disorder.
            let (_, factor) = units.find(|(unit, _)| *unit == name).ok_or_else(form)?;
            ms += number.parse::<u64>().map_err(|_| form())? * factor;
            rest = tail;
        }
        if text.is_empty() {
            Err(form())
        } else {
            Ok(Period { ms })
        }
    }
}

/// The canonical form; it parses back to the same value.
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ms == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.ms;
        for (name, factor) in UNITS {
            if rest >= factor {
                write!(f, "{}{name}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": Period::PATTERN, "minLength": 2, "maxLength": 48 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_kubernetes_durations() {
        for (text, ms) in [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("90s", 90_000),
            ("2h", 7_200_000),
            ("1h1m1s1ms", 3_661_001),
            ("999999999h999999999m999999999s999999999ms", 3_661_000_996_338_999),
        ] {
            assert_eq!(text.parse(), Ok(Period { ms }), "{text}");
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1s30m",
            "1s1s",
            "1d",
            "1 s",
            "1S",
            "1000000000s",
            "1us",
            "1s ",
            "٣s",
        ] {
            assert!(text.parse::<Period>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn is_text_in_json() {
        assert_eq!(serde_json::to_string(&Period::seconds(90)).unwrap(), "\"1m30s\"");
        assert_eq!(serde_json::from_str::<Period>("\"90s\"").unwrap(), Period::seconds(90));
        assert!(serde_json::from_str::<Period>("90").is_err());
    }

    proptest! {
        #[test]
        fn display_parses_back(ms in 0u64..3_600_000_000_000_000) {
            let period = Period { ms };
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn never_panics_and_agrees_with_its_pattern(text in r"([0-9]{1,10}[hms]{1,2}){1,4}|\PC{0,8}") {
            let schema = serde_json::json!({ "pattern": Period::PATTERN, "minLength": 1 });
            prop_assert_eq!(jsonschema::is_valid(&schema, &text.as_str().into()), text.parse::<Period>().is_ok());
        }
    }
}
