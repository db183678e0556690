//! Reads kombu's typed values, `{"__type__": "datetime", "__value__": "…"}`, in the form that a Rust type asks for.
//!
//! Python uses this form for values that JSON does not have: `datetime`, `date`, `time`, `decimal`, `uuid`, `bytes` (text)
//! and `base64` (other bytes). They are kept unchanged in messages and results, since Python reads them too. Here they
//! become bytes for a type that asks for bytes, numbers for one that asks for numbers, and texts for all others. Some
//! types want a text in another form than Python's: `DateTime<Utc>` wants an offset, which a naive datetime lacks. Only a
//! try shows what a type accepts, so a type that refuses the first form is given the next one.

mod value;
mod within;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use memchr::memmem::Finder;
use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde::de::{Deserializer, Error as _, Visitor};
use serde_json::value::RawValue;
use serde_json::{Error, Result};

use self::value::{Typed, Written};
use self::within::Within;
use super::codec::Keywords;

/// Finds the key that every typed value contains. Every body and its arguments are searched, so the search is prepared once.
static TYPE_KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"__type__\""));

/// The maximum nesting depth: serde's own limit for what it reads into values.
const DEEPEST: usize = 128;

/// Reads JSON that may contain typed values.
///
/// # Errors
/// As `serde_json::from_str`.
pub(crate) fn from_str<'de, T: Deserialize<'de>>(json: &'de str) -> Result<T> {
    if !may_hold_typed(json.trim_ascii_start()) {
        return serde_json::from_str(json);
    }
    let json = serde_json::from_str::<&RawValue>(json)?.get();
    let forms = Forms::default();
    let read = || loop {
        let read = T::deserialize(Node { json, depth: 0, forms: &forms });
        if read.is_ok() || !forms.refused.take() {
            return read;
        }
    };
    read().or_else(|error| {
        forms.buffered.set(1);
        // Return the first error: it is about the values as they were sent.
        read().map_err(|_| error)
    })
}

/// Reads JSON that may contain typed values.
///
/// # Errors
/// As `serde_json::from_slice`.
pub(crate) fn from_slice<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T> {
    match std::str::from_utf8(json) {
        Ok(json) => from_str(json),
        // The error says where the text is not UTF-8.
        Err(_) => serde_json::from_slice(json),
    }
}

/// Refuses a body with typed values that is nested too deeply. Each level is searched for them, so a hundred thousand
/// levels would take too long.
pub(super) fn check_depth(body: &[u8]) -> std::result::Result<(), String> {
    if TYPE_KEY.find(body).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(format!("the body is nested deeper than {DEEPEST} levels"));
        }
    }
    Ok(())
}

/// Rewrites the numbers that Python writes but JSON does not have, such as `NaN` and `-Infinity`, as typed values. `None`
/// if there are none.
pub(crate) fn spell_out_numbers(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() + 64);
    let (mut rest, mut in_text, mut found) = (json, false, false);
    while let Some((first, after)) = rest.split_first() {
        let number =
            ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| rest.starts_with(name.as_bytes()));
        let taken = match (number.filter(|_| !in_text), first) {
            (Some(name), _) => {
                found = true;
                out.extend_from_slice(format!(r#"{{"__type__":"decimal","__value__":"{name}"}}"#).as_bytes());
                rest = &rest[name.len()..];
                continue;
            }
            (None, b'\\') if !after.is_empty() => 2,
            (None, b'"') => {
                in_text = !in_text;
                1
            }
            (None, _) => 1,
        };
        out.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
    }
    found.then_some(out)
}

fn may_hold_typed(json: &str) -> bool {
    json.starts_with(['{', '[']) && TYPE_KEY.find(json.as_bytes()).is_some()
}

/// The form that each type was given last. A type is identified by its visitor, since nothing else is known of it.
#[derive(Default)]
struct Forms {
    chosen: RefCell<HashMap<(&'static str, Written), usize>>,
    /// The form for all other types. A value that is buffered before its type is known, as for an untagged enum, is accepted
    /// here and refused only later.
    buffered: Cell<usize>,
    /// True if a refused value has another form to try.
    refused: Cell<bool>,
}

impl Forms {
    fn chosen<V>(&self, written: Written) -> usize {
        let chosen = self.chosen.borrow().get(&(std::any::type_name::<V>(), written)).copied();
        chosen.unwrap_or(self.buffered.get())
    }

    fn refuse<V>(&self, written: Written, form: usize, count: usize) {
        if form + 1 < count {
            self.chosen.borrow_mut().insert((std::any::type_name::<V>(), written), form + 1);
            self.refused.set(true);
        }
    }
}

/// Any JSON value.
#[derive(Clone, Copy)]
struct Node<'de, 'f> {
    json: &'de str,
    depth: usize,
    forms: &'f Forms,
}

/// The kind of a [`Node`].
enum Kind<'de, 'f> {
    /// JSON without typed values in it.
    Plain,
    /// A list or an object that holds typed values.
    Holder,
    Typed(Typed<'de, 'f>),
    /// A type that is not kombu's own.
    Foreign {
        kind: String,
        value: Node<'de, 'f>,
    },
}

impl<'de, 'f> Node<'de, 'f> {
    fn kind(self) -> Result<Kind<'de, 'f>> {
        if !may_hold_typed(self.json) {
            return Ok(Kind::Plain);
        }
        if self.depth > DEEPEST {
            return Err(Error::custom(format_args!("it is nested deeper than {DEEPEST} levels")));
        }
        if self.json.starts_with('[') {
            return Ok(Kind::Holder);
        }
        let Keywords(pairs) = serde_json::from_str(self.json)?;
        let get = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
        let (2, Some(kind), Some(value)) = (pairs.len(), get("__type__"), get("__value__")) else {
            return Ok(Kind::Holder);
        };
        let Ok(kind) = serde_json::from_str::<String>(kind.get()) else { return Ok(Kind::Holder) };
        Ok(match value::written(&kind, value) {
            Some((written, text)) => Kind::Typed(Typed { written, text, forms: self.forms }),
            None => Kind::Foreign { kind, value: self.child(value) },
        })
    }

    fn child(self, value: &'de RawValue) -> Self {
        Node { json: value.get(), depth: self.depth + 1, forms: self.forms }
    }

    fn within<T>(self, inner: T) -> Within<'de, 'f, T> {
        Within { inner, node: self }
    }
}

macro_rules! deserialize {
    ($($method:ident($($name:ident: $type:ty),*))*) => {
        $(fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value> {
            let mut json = serde_json::Deserializer::from_str(self.json);
            match self.kind()? {
                Kind::Plain => json.$method($($name,)* visitor),
                Kind::Holder => json.$method($($name,)* self.within(visitor)),
                Kind::Typed(value) => value.$method($($name,)* visitor),
                Kind::Foreign { value, .. } => value.$method($($name,)* visitor),
            }
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'de, '_> {
    type Error = Error;

    deserialize! {
        deserialize_any() deserialize_bool() deserialize_i8() deserialize_i16() deserialize_i32() deserialize_i64()
        deserialize_i128() deserialize_u8() deserialize_u16() deserialize_u32() deserialize_u64() deserialize_u128()
        deserialize_f32() deserialize_f64() deserialize_char() deserialize_str() deserialize_string()
        deserialize_bytes() deserialize_byte_buf() deserialize_unit() deserialize_unit_struct(name: &'static str)
        deserialize_seq() deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize) deserialize_map()
        deserialize_enum(name: &'static str, variants: &'static [&'static str]) deserialize_identifier()
        deserialize_ignored_any()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match may_hold_typed(self.json) {
            true => visitor.visit_some(self),
            false => serde_json::Deserializer::from_str(self.json).deserialize_option(visitor),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value> {
        // `RawValue` takes the text as it is.
        match may_hold_typed(self.json) && !name.starts_with("$serde_json::private::") {
            true => visitor.visit_newtype_struct(self),
            false => serde_json::Deserializer::from_str(self.json).deserialize_newtype_struct(name, visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        let mut json = serde_json::Deserializer::from_str(self.json);
        match self.kind()? {
            Kind::Plain => json.deserialize_struct(name, fields, visitor),
            Kind::Holder => json.deserialize_struct(name, fields, self.within(visitor)),
            // A user's type that is written like one of kombu's.
            _ if fields.contains(&"__type__") => json.deserialize_struct(name, fields, self.within(visitor)),
            Kind::Typed(value) => value.deserialize_struct(name, fields, visitor),
            Kind::Foreign { kind, value } => match value.seconds().filter(|_| kind == "timedelta") {
                Some(time) if name == "Duration" => {
                    let parts = [("secs", time.as_secs()), ("nanos", time.subsec_nanos().into())];
                    visitor.visit_map(MapDeserializer::new(parts.into_iter()))
                }
                _ => value.deserialize_struct(name, fields, visitor),
            },
        }
    }
}

impl Node<'_, '_> {
    /// A `timedelta` as programs that register this type write it: its seconds.
    fn seconds(self) -> Option<Duration> {
        Duration::try_from_secs_f64(serde_json::from_str(self.json).ok()?).ok()
    }
}

#[cfg(test)]
mod tests;
