//! What an unquoted scalar of YAML means.
//!
//! Reads what `kubectl` reads the same way, and nothing else: `kubectl` resolves unquoted values by YAML 1.1, where `no`
//! is a boolean and `010` is eight. Such values are refused here, or the same manifest would mean two things.

use serde_json::{Number, Value};

use super::yaml::YamlErrorKind;

/// What an unquoted scalar means by the core schema of YAML 1.2 (§10.3), if Kubernetes agrees.
pub(super) fn value(text: &str) -> Result<Value, YamlErrorKind> {
    if let Some(kubernetes) = kubernetes_reading(text) {
        return Err(YamlErrorKind::Ambiguous {
            text: text.to_owned(),
            kubernetes,
        });
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".nan" | ".NaN" | ".NAN" => return Err(YamlErrorKind::NotFinite(text.to_owned())),
        _ if matches!(unsigned, ".inf" | ".Inf" | ".INF") => return Err(YamlErrorKind::NotFinite(text.to_owned())),
        _ => {}
    }
    if let Some(digits) = text.strip_prefix("0x")
        && let Ok(number) = u64::from_str_radix(digits, 16)
        && !digits.starts_with('+')
    {
        return Ok(number.into());
    }
    if !is_number(unsigned) {
        return Ok(text.into());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Ok(number.into());
    }
    match text.parse::<f64>().ok().and_then(Number::from_f64) {
        Some(number) => Ok(Value::Number(number)),
        None => Err(YamlErrorKind::NotFinite(text.to_owned())),
    }
}

/// Whether a text without its sign is a decimal number: `12`, `1.5`, `.5`, `1.`, `1e3`.
fn is_number(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, decimals) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && digits(decimals)
        && !(whole.is_empty() && decimals.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent))
}

/// What `kubectl`'s YAML 1.1 makes of an unquoted text that YAML 1.2 reads otherwise; `None` if they agree.
///
/// After go-yaml v2's `resolve.go`, by way of sigs.k8s.io/yaml.
pub(super) fn kubernetes_reading(text: &str) -> Option<&'static str> {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Some("true"),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => return Some("false"),
        _ => {}
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let tail = |prefix: &str| unsigned.strip_prefix(prefix).filter(|tail| !tail.is_empty());
    let all = |text: &str, allowed: &[u8]| text.bytes().all(|byte| allowed.contains(&byte));
    if tail("0b").is_some_and(|tail| all(tail, b"01_")) {
        return Some("a binary number");
    }
    if tail("0o")
        .or_else(|| tail("0"))
        .is_some_and(|tail| all(tail, b"01234567_"))
    {
        return Some("an octal number");
    }
    let grouped = unsigned.starts_with(|first: char| first.is_ascii_digit()) && unsigned.contains('_');
    let hex = tail("0x").unwrap_or("").replace('_', "");
    let digits = unsigned.replace('_', "");
    if grouped && (is_number(&digits) || (!hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))) {
        return Some("a number with digits in groups");
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_follow_the_core_schema() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("True", json!(true)),
            ("12", json!(12)),
            ("+7", json!(7)),
            ("-3", json!(-3)),
            ("0", json!(0)),
            ("08", json!(8)),
            ("0x1F", json!(31)),
            ("1.5e3", json!(1500.0)),
            (".5", json!(0.5)),
            ("18446744073709551615", json!(u64::MAX)),
            ("infinity", json!("infinity")),
            ("1.2.3", json!("1.2.3")),
            ("e5", json!("e5")),
            ("0x", json!("0x")),
            ("2024-01-01", json!("2024-01-01")),
            ("not_a_number_1", json!("not_a_number_1")),
        ] {
            assert_eq!(value(text), Ok(expected), "{text}");
        }
        for text in [".inf", "-.Inf", ".nan", "1e999"] {
            assert_eq!(value(text), Err(YamlErrorKind::NotFinite(text.to_owned())));
        }
    }

    #[test]
    fn values_that_kubernetes_reads_otherwise_are_refused() {
        for text in [
            "yes", "No", "on", "y", "010", "-017", "0o17", "0b11", "1_000", "0x_ff", "1_0.5",
        ] {
            assert!(matches!(value(text), Err(YamlErrorKind::Ambiguous { .. })), "{text}");
        }
    }
}
