//! Amounts of memory and disk as manifests write them.
//!
//! A strict subset of Kubernetes' quantities (`k8s.io/apimachinery/pkg/api/resource`): no sign, no exponent, no
//! milli-bytes. What is accepted here means the same there.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. Written as a Kubernetes quantity: `512Mi`, `2Gi`, `1.5G`, or plain bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// Suffixes and their factors; the binary ones first, each family from large to small.
const UNITS: [(&str, u64); 10] = [
    ("Pi", 1 << 50),
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseBytesError {
    /// Not of the form that [`Bytes::PATTERN`] describes.
    #[error("not a quantity: {0:?}")]
    Form(String),
    /// More than fits into 64 bits.
    #[error("too large: {0:?} is more than 16Ei")]
    TooLarge(String),
}

impl Bytes {
    /// The accepted form, as a regular expression. At most 20 digits, as 64 bits need, and 3 decimals.
    pub const PATTERN: &'static str = r"^[0-9]{1,20}(\.[0-9]{1,3})?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$";

    /// So many bytes.
    pub const fn new(bytes: u64) -> Bytes {
        Bytes(bytes)
    }

    /// So many times 1024 bytes.
    pub const fn kib(count: u32) -> Bytes {
        Bytes(count as u64 * (1 << 10))
    }

    /// So many times 1024² bytes.
    pub const fn mib(count: u32) -> Bytes {
        Bytes(count as u64 * (1 << 20))
    }

    /// So many times 1024³ bytes.
    pub const fn gib(count: u32) -> Bytes {
        Bytes(count as u64 * (1 << 30))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number of bytes as a size in this process's memory; the largest such size if it does not fit.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for Bytes {
    type Err = ParseBytesError;

    /// Fractions of a byte are rounded up, as Kubernetes does.
    fn from_str(text: &str) -> Result<Bytes, ParseBytesError> {
        let form = || ParseBytesError::Form(crate::problem::clip(text.to_owned(), 64));
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, suffix) = text.split_at(unit_at);
        let factor = match suffix {
            "" => 1,
            suffix => UNITS
                .iter()
                .find(|(name, _)| *name == suffix)
                .map(|(_, factor)| *factor)
                .ok_or_else(form)?,
        };
        let (whole, decimals) = match number.split_once('.') {
            Some((whole, decimals)) if (1..=3).contains(&decimals.len()) => (whole, decimals),
            Some(_) => return Err(form()),
            None => (number, ""),
        };
        let all_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
        if !(1..=20).contains(&whole.len()) || !all_digits(whole) || !all_digits(decimals) {
            return Err(form());
        }
        // At most 23 digits of thousandths: 10^23 * 2^50 < 2^127 fits u128.
        let thousandths: u128 = format!("{whole}{decimals:0<3}").parse().map_err(|_| form())?;
        let bytes = (thousandths * u128::from(factor)).div_ceil(1000);
        u64::try_from(bytes)
            .map(Bytes)
            .map_err(|_| ParseBytesError::TooLarge(text.to_owned()))
    }
}

/// The largest unit that divides it; it parses back to the same number.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, factor): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*factor);
        match UNITS.iter().filter(exact).max_by_key(|(_, factor)| *factor) {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From a quantity, or from a plain integer, as Kubernetes does.
impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity of bytes such as 512Mi")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                u64::try_from(bytes)
                    .map(Bytes)
                    .map_err(|_| E::custom("a quantity of bytes is not negative"))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    /// The one use of `anyOf` that Kubernetes' structural schemas allow.
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "x-kubernetes-int-or-string": true,
            "pattern": Bytes::PATTERN,
            "maxLength": 28,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("512Mi", 512 << 20),
            ("2Gi", 2 << 30),
            ("1G", 1_000_000_000),
            ("3k", 3000),
            ("1.5Gi", 3 << 29),
            ("0.1Ki", 103), // 102.4, rounded up
            ("16383Pi", 16383 << 50),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_not_strictly_a_quantity() {
        for text in [
            "", " 1", "1 Gi", "-1", "+1", "1e3", "1GiB", "1gb", "1K", "Gi", "1.", ".5", "1.0001", "100m", "1Gi\n", "1٣",
        ] {
            assert!(
                matches!(text.parse::<Bytes>(), Err(ParseBytesError::Form(_))),
                "{text:?}"
            );
        }
        assert!(matches!("16384Pi".parse::<Bytes>(), Err(ParseBytesError::TooLarge(_))));
    }

    #[test]
    fn is_shown_in_the_unit_that_it_was_written_in() {
        // 10G is also a whole number of Ki, and the last one is so of Ki and of M.
        for text in ["0", "1023", "512Mi", "2Gi", "10G", "1500M", "12787452260832M"] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
        assert_eq!(Bytes(u64::MAX).to_string().parse(), Ok(Bytes(u64::MAX)));
    }

    #[test]
    fn is_text_in_json_and_reads_integers_too() {
        assert_eq!(serde_json::to_string(&Bytes::mib(512)).unwrap(), "\"512Mi\"");
        assert_eq!(serde_json::from_str::<Bytes>("1073741824").unwrap(), Bytes::gib(1));
        assert!(serde_json::from_str::<Bytes>("-1").is_err());
        assert!(serde_json::from_str::<Bytes>("1.5").is_err());
    }

    proptest! {
        #[test]
        fn display_parses_back(bytes in any::<u64>(), shift in 0u32..64) {
            let bytes = Bytes(bytes >> shift);
            prop_assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }

        #[test]
        fn never_panics_and_agrees_with_its_pattern(text in r"[0-9.KMGTPikE+\-]{0,20}|\PC{0,8}") {
            let matches = jsonschema::is_valid(&serde_json::json!({ "pattern": Bytes::PATTERN }), &text.as_str().into());
            let accepted = !matches!(text.parse::<Bytes>(), Err(ParseBytesError::Form(_)));
            prop_assert_eq!(matches, accepted, "{:?}", text);
        }
    }
}
