//! Writes values of well-known types as Python's own, in kombu's form: `{"__type__": "datetime", "__value__": "…"}`.
//! `message::typed` reads them.
//!
//! To a serde serializer, a time or a UUID is just a string. Only one step earlier, where the value is passed in, can it be
//! recognized: by the name of its Rust type.

use std::any::type_name;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::ser::{Error, SerializeMap};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// How times, UUIDs, decimals and bytes in results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ResultTypes {
    /// As the value's own `Serialize` writes them: times, UUIDs and decimals as texts, bytes as lists of numbers.
    #[default]
    Json,
    /// As kombu, and so Celery, writes `datetime`, `date`, `time`, `UUID`, `Decimal` and `bytes`: Python reads such values. The
    /// types of chrono, uuid, rust_decimal and bytes are supported, and `Vec<u8>`. Times are cut to microseconds.
    Kombu,
}

impl ResultTypes {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Kombu => "kombu",
        }
    }
}

/// A type that Python has too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    DateTime,
    Date,
    Time,
    Decimal,
    Uuid,
    Bytes,
}

/// The Python type that a Rust type is written as. `None`: it is written unchanged.
pub(super) fn kind_of<T: ?Sized>() -> Option<Kind> {
    let mut name = type_name::<T>();
    while let Some(inner) = name.strip_prefix('&').or_else(|| pointed_to(name)) {
        name = inner;
    }
    Some(match name {
        "chrono::naive::datetime::NaiveDateTime" => Kind::DateTime,
        name if name.starts_with("chrono::datetime::DateTime<") => Kind::DateTime,
        "chrono::naive::date::NaiveDate" => Kind::Date,
        "chrono::naive::time::NaiveTime" => Kind::Time,
        "rust_decimal::decimal::Decimal" => Kind::Decimal,
        "uuid::Uuid" => Kind::Uuid,
        "alloc::vec::Vec<u8>" | "bytes::bytes::Bytes" | "bytes::bytes_mut::BytesMut" => Kind::Bytes,
        _ => return None,
    })
}

fn pointed_to(name: &str) -> Option<&str> {
    let pointers = ["alloc::boxed::Box<", "alloc::sync::Arc<", "alloc::rc::Rc<"];
    let inner = pointers.into_iter().find_map(|pointer| name.strip_prefix(pointer))?;
    inner.strip_suffix('>')
}

/// Writes a value as the given Python type.
pub(super) fn write<T: Serialize + ?Sized, S: Serializer>(
    kind: Kind,
    value: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if kind == Kind::Bytes {
        let bytes: Vec<u8> = serde_json::to_vec(value)
            .and_then(|json| serde_json::from_slice(&json))
            .map_err(S::Error::custom)?;
        return write_bytes(&bytes, serializer);
    }
    // A decimal may be written as a number, which Python reads too.
    let Value::String(text) = serde_json::to_value(value).map_err(S::Error::custom)? else {
        return value.serialize(serializer);
    };
    match kind {
        Kind::DateTime => envelope("datetime", &in_python(&text), serializer),
        Kind::Date => envelope("date", &text, serializer),
        Kind::Time => envelope("time", &in_python(&text), serializer),
        Kind::Uuid => {
            let hex = text.replace('-', "");
            envelope("uuid", &serde_json::json!({ "hex": hex }), serializer)
        }
        _ => envelope("decimal", &text, serializer),
    }
}

/// Writes bytes.
pub(super) fn write_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    envelope("base64", &BASE64_STANDARD.encode(bytes), serializer)
}

fn envelope<V: Serialize, S: Serializer>(kind: &str, value: &V, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("__type__", kind)?;
    map.serialize_entry("__value__", value)?;
    map.end()
}

/// A time as Python's `isoformat` writes it, and every `fromisoformat` reads it: with microseconds or without a fraction,
/// and never with a `Z`.
fn in_python(text: &str) -> String {
    let (text, offset) = match text.strip_suffix(['Z', 'z']) {
        Some(text) => (text, "+00:00"),
        None => {
            let time = text.find('T').unwrap_or(0);
            let offset = text[time..].find(['+', '-']).map_or(text.len(), |at| time + at);
            text.split_at(offset)
        }
    };
    match text.split_once('.') {
        Some((seconds, fraction)) => format!("{seconds}.{fraction:0<6.6}{offset}"),
        None => format!("{text}{offset}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, Utc};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;
    use crate::message::{json, typed};

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        at: DateTime<Utc>,
        local: DateTime<FixedOffset>,
        naive: NaiveDateTime,
        day: Option<NaiveDate>,
        times: Vec<NaiveTime>,
        id: Box<Uuid>,
        by_id: BTreeMap<Uuid, (Uuid, u8)>,
        photo: Bytes,
        sign: Vec<u8>,
        wrapped: Wrapped,
        none: Option<Uuid>,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Wrapped(String, Box<NaiveDate>);

    fn order() -> Order {
        let day = NaiveDate::from_ymd_opt(2031, 1, 2).expect("a day");
        let naive = day.and_hms_micro_opt(3, 4, 5, 678).expect("a time");
        Order {
            at: naive.and_utc(),
            local: naive.and_utc().with_timezone(&FixedOffset::east_opt(7200).expect("an offset")),
            naive,
            day: Some(day),
            times: vec![NaiveTime::from_hms_opt(3, 4, 5).expect("a time")],
            id: Box::new(Uuid::from_u128(5)),
            by_id: [(Uuid::from_u128(6), (Uuid::from_u128(7), 1))].into(),
            photo: Bytes::from_static(b"\xff\x00"),
            sign: vec![104, 105],
            wrapped: Wrapped("x".into(), Box::new(day)),
            none: None,
        }
    }

    #[test]
    fn values_are_written_as_python_writes_them_and_read_back() {
        let written = json::to_vec_as(&order(), ResultTypes::Kombu).expect("JSON");
        let typed = |kind: &str, value: Value| json!({ "__type__": kind, "__value__": value });
        let hex = |n: u8| typed("uuid", json!({ "hex": format!("{n:032}") }));
        let expected = json!({
            "at": typed("datetime", "2031-01-02T03:04:05.000678+00:00".into()),
            "local": typed("datetime", "2031-01-02T05:04:05.000678+02:00".into()),
            "naive": typed("datetime", "2031-01-02T03:04:05.000678".into()),
            "day": typed("date", "2031-01-02".into()),
            "times": [typed("time", "03:04:05".into())],
            "id": hex(5),
            "by_id": { "00000000-0000-0000-0000-000000000006": [hex(7), 1] },
            "photo": typed("base64", "/wA=".into()),
            "sign": typed("base64", "aGk=".into()),
            "wrapped": ["x", typed("date", "2031-01-02".into())],
            "none": null,
        });
        assert_eq!(serde_json::from_slice::<Value>(&written).expect("JSON"), expected);
        assert_eq!(typed::from_slice::<Order>(&written).expect("its own"), order());
        let plain = json::to_vec_as(&order(), ResultTypes::Json).expect("JSON");
        assert_eq!(plain, serde_json::to_vec(&order()).expect("JSON"));
        let alone = json::to_vec_as(&Uuid::from_u128(5), ResultTypes::Kombu).expect("JSON");
        assert_eq!(serde_json::from_slice::<Value>(&alone).expect("JSON"), hex(5));
        assert!(json::to_vec_as(&[f64::NAN], ResultTypes::Kombu).is_err());
    }

    #[test]
    fn times_have_six_digits_or_none() {
        for (text, python) in [
            ("2031-01-02T03:04:05Z", "2031-01-02T03:04:05+00:00"),
            ("2031-01-02T03:04:05.123456789Z", "2031-01-02T03:04:05.123456+00:00"),
            ("2031-01-02T03:04:05.5-03:30", "2031-01-02T03:04:05.500000-03:30"),
            ("2031-01-02T03:04:05", "2031-01-02T03:04:05"),
            ("03:04:05.250", "03:04:05.250000"),
        ] {
            assert_eq!(in_python(text), python);
        }
    }
}
