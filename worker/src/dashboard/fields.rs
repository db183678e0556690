//! Deserializes the fields of requests: JSON from programs, text from forms.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Reads a number. A form sends it as text, with an empty field for none.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Number(number) if number.is_u64() => Ok(number.as_u64()),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => text.trim().parse().map(Some).map_err(serde::de::Error::custom),
        other => Err(serde::de::Error::custom(format!("expected a whole number, not {other}"))),
    }
}

/// Reads a change of a number, which must be neither zero nor absurdly large.
pub(crate) fn change<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let by = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    by.filter(|by| *by != 0 && by.abs() <= 10_000).ok_or_else(|| {
        serde::de::Error::custom("expected a whole number between -10000 and 10000, and not 0")
    })
}

/// Reads a flag. A form sends a ticked box as text.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" || text.is_empty() => Ok(false),
        other => Err(serde::de::Error::custom(format!("expected true or false, not {other}"))),
    }
}

/// Reads a list. A form sends a list of one as plain text.
pub(crate) fn several<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(String),
        More(Vec<String>),
    }
    Ok(match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    })
}
