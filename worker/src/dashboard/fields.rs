//! Values of requests: JSON from programs, and texts from forms.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A form sends numbers as text, and an empty field for none.
pub(crate) fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Number(number) if number.is_u64() => Ok(number.as_u64()),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => text.trim().parse().map(Some).map_err(serde::de::Error::custom),
        other => Err(serde::de::Error::custom(format!("expected a whole number, not {other}"))),
    }
}

/// A change of a number, which is not zero and not absurd.
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

/// A form sends a box that is ticked as text.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(flag) => Ok(flag),
        Value::String(text) if text == "true" => Ok(true),
        Value::String(text) if text == "false" || text.is_empty() => Ok(false),
        other => Err(serde::de::Error::custom(format!("expected true or false, not {other}"))),
    }
}

/// A form sends one text where there is only one.
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
