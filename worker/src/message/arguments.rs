//! The arguments of a call, kept as JSON text and decoded one by one into the task's types.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::{DeserializeOwned, IntoDeserializer, Visitor, value};
use serde_json::value::RawValue;

use super::codec::not_utf8;
use super::typed;
use crate::error::Undecodable;

/// The arguments of one call, positional and by keyword, as slices of the message's body.
///
/// The macro takes them in the order of the parameters and then calls [`finish`](Self::finish), which
/// refuses whatever is left over. Nothing is parsed into an intermediate value.
#[derive(Debug)]
pub struct Arguments<'a> {
    source: Source<'a>,
    taken: usize,
    keywords_used: usize,
}

#[derive(Debug)]
enum Source<'a> {
    /// The positional and keyword arguments of a Celery body.
    Call { positional: Vec<&'a RawValue>, keyword: Vec<(Cow<'a, str>, &'a RawValue)> },
    /// A plain message: its whole payload is the one argument.
    Payload { body: &'a Bytes, content_type: Option<&'a str> },
}

/// The type of a task's argument: it can be written into a message and read from it.
#[diagnostic::on_unimplemented(
    message = "a task cannot take `{Self}`: it cannot be sent in a message",
    label = "neither written to JSON nor read from it",
    note = "derive `Serialize` and `Deserialize` for a type of your own",
    note = "what runs share, such as a pool of connections, is made by a `#[setup]` function and taken with \
            `ctx.state::<T>()`; a context is lent, as `ctx: &Context`"
)]
pub trait Argument: Serialize + DeserializeOwned + Send + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + 'static> Argument for T {}

/// Why a call's arguments do not fit the task's parameters. Such a call can never succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentError(String);

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ArgumentError {}

impl<'a> Arguments<'a> {
    pub(crate) fn call(positional: Vec<&'a RawValue>, keyword: Vec<(Cow<'a, str>, &'a RawValue)>) -> Self {
        Self { source: Source::Call { positional, keyword }, taken: 0, keywords_used: 0 }
    }

    pub(crate) fn payload(body: &'a Bytes, content_type: Option<&'a str>) -> Self {
        Self { source: Source::Payload { body, content_type }, taken: 0, keywords_used: 0 }
    }

    /// Takes the next parameter, by position or else by its name.
    ///
    /// A missing argument is an error, unless its type has a value for that case, as `Option` has.
    pub fn take<T: Argument>(&mut self, name: &'static str) -> Result<T, ArgumentError> {
        let index = self.taken;
        self.taken += 1;
        let (positional, keyword) = match &self.source {
            Source::Payload { body, content_type } if index == 0 => {
                return from_payload(name, body, *content_type);
            }
            Source::Payload { .. } => return missing(name),
            Source::Call { positional, keyword } => (positional, keyword),
        };
        let by_name = keyword.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        match (positional.get(index), by_name) {
            (Some(_), Some(_)) => {
                Err(ArgumentError(format!("argument `{name}` is given twice, by position and by name")))
            }
            (Some(value), None) => parse(name, value.get()),
            (None, Some(value)) => {
                self.keywords_used += 1;
                parse(name, value.get())
            }
            (None, None) => missing(name),
        }
    }

    /// Refuses arguments for which the task has no parameter.
    pub fn finish(self, parameters: &[&str]) -> Result<(), ArgumentError> {
        let Source::Call { positional, keyword } = self.source else { return Ok(()) };
        if positional.len() > parameters.len() {
            return Err(ArgumentError(format!(
                "{} arguments given, the task takes {}{}",
                positional.len(),
                parameters.len(),
                listed(parameters)
            )));
        }
        if self.keywords_used == keyword.len() {
            return Ok(());
        }
        let unknown = keyword.iter().find(|(key, _)| !parameters.contains(&key.as_ref()));
        Err(match unknown {
            Some((key, _)) => {
                ArgumentError(format!("the task has no parameter `{key}`{}", listed(parameters)))
            }
            None => ArgumentError("a keyword argument is given twice".into()),
        })
    }
}

fn listed(parameters: &[&str]) -> String {
    if parameters.is_empty() { String::new() } else { format!(" ({})", parameters.join(", ")) }
}

fn parse<T: DeserializeOwned>(name: &str, json: &str) -> Result<T, ArgumentError> {
    typed::from_str(json).map_err(|error| {
        ArgumentError(format!("argument `{name}` does not fit: {}", Undecodable::from(&error)))
    })
}

/// Decodes a plain message as bytes for a parameter that asks for bytes, else as JSON, else as text. If its content type
/// is text, text is tried first: `"42"` with its quotes is what the sender wrote.
fn from_payload<T: DeserializeOwned>(
    name: &str,
    body: &Bytes,
    content_type: Option<&str>,
) -> Result<T, ArgumentError> {
    if let Ok(value) = T::deserialize(OnlyBytes(body)) {
        return Ok(value);
    }
    let says = |kind: &str| content_type.is_some_and(|given| given.starts_with(kind));
    if says("text/")
        && let Some(value) = from_text(body)
    {
        return Ok(value);
    }
    let json_error = match typed::from_slice(body) {
        Ok(value) => return Ok(value),
        Err(error) => error,
    };
    if !says(super::JSON)
        && let Some(value) = from_text(body)
    {
        return Ok(value);
    }
    let why = match std::str::from_utf8(body) {
        Ok(_) => Undecodable::from(&json_error).to_string(),
        Err(error) => not_utf8(error),
    };
    Err(ArgumentError(format!("the message does not fit the parameter `{name}`: {why}")))
}

fn from_text<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let text: value::StrDeserializer<'_, value::Error> = std::str::from_utf8(body).ok()?.into_deserializer();
    T::deserialize(text).ok()
}

/// Serves types that ask for bytes, such as `Bytes`, and refuses all others: those read JSON or text.
struct OnlyBytes<'a>(&'a [u8]);

impl<'de> serde::Deserializer<'de> for OnlyBytes<'_> {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("not bytes"))
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_bytes(self.0)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_byte_buf(self.0.to_vec())
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A missing argument: `None` for `Option` and types like it, an error for every other type.
struct Missing;

impl<'de> serde::Deserializer<'de> for Missing {
    type Error = value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(serde::de::Error::custom("missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_none()
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

fn missing<T: DeserializeOwned>(name: &str) -> Result<T, ArgumentError> {
    T::deserialize(Missing).map_err(|_| ArgumentError(format!("argument `{name}` is missing")))
}
