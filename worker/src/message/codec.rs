//! Encodes and decodes the body of a call: `[args, kwargs, embed]` in protocol v2.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Arguments, json};
use crate::error::{Error, Result, Undecodable};

/// The argument list of a task without parameters: an empty JSON array, where `()` would be `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoArgs;

impl Serialize for NoArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_seq(Some(0))?.end()
    }
}

/// The part of a body besides the arguments: signatures to run afterwards, as Celery writes them. They are kept as text,
/// so that every number and every typed value in them is passed on unchanged.
///
/// `chain` is reversed: its last element is the next step.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Embed {
    /// Called with the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callbacks: Option<Vec<Box<RawValue>>>,
    /// Called with the id of the failed task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errbacks: Option<Vec<Box<RawValue>>>,
    /// The steps that follow, the next one last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Vec<Box<RawValue>>>,
    /// The body of the chord that this task is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chord: Option<Box<RawValue>>,
}

impl Embed {
    /// True when nothing follows the task.
    pub fn is_empty(&self) -> bool {
        let none = |list: &Option<Vec<Box<RawValue>>>| list.as_ref().is_none_or(Vec::is_empty);
        none(&self.callbacks) && none(&self.errbacks) && none(&self.chain) && self.chord.is_none()
    }
}

/// Writes the body of a call with positional arguments: a tuple, a list, or `()` for none.
///
/// # Errors
/// Arguments that are not a list, and values that JSON cannot express, such as NaN or a map whose keys are not strings.
pub fn encode<A: Serialize + ?Sized>(args: &A) -> Result<Bytes> {
    let mut body = Vec::with_capacity(128);
    write_list(&mut body, args)?;
    body.extend_from_slice(b",{},{}]");
    Ok(body.into())
}

/// Writes a body of positional arguments, keyword arguments, and what follows the task.
///
/// # Errors
/// See [`encode`]; also keyword arguments that are not an object.
pub fn encode_values<A, K>(args: &A, kwargs: &K, embed: &Embed) -> Result<Bytes>
where
    A: Serialize + ?Sized,
    K: Serialize + ?Sized,
{
    let mut body = Vec::with_capacity(128);
    write_list(&mut body, args)?;
    body.push(b',');
    let begin = body.len();
    json::write(&mut body, kwargs).map_err(cannot_write)?;
    if body.get(begin) != Some(&b'{') {
        return Err(Error::codec("the arguments by name are not a JSON object: pass a map or a struct"));
    }
    body.push(b',');
    json::write(&mut body, embed).map_err(cannot_write)?;
    body.push(b']');
    Ok(body.into())
}

/// Opens the body and writes its first part.
fn write_list<A: Serialize + ?Sized>(body: &mut Vec<u8>, args: &A) -> Result<()> {
    body.push(b'[');
    json::write(body, args).map_err(cannot_write)?;
    match &body[1..] {
        [b'[', ..] => {}
        b"null" => {
            body.truncate(1);
            body.extend_from_slice(b"[]");
        }
        _ => return Err(Error::codec("the arguments are not a JSON list: pass a tuple, such as `(7,)`")),
    }
    Ok(())
}

fn cannot_write(error: serde_json::Error) -> Error {
    Error::codec("cannot write the arguments as JSON").with_source(error)
}

/// A decoded body: the arguments are slices of it, so that they go straight into the task's types.
#[derive(Debug)]
pub struct Body<'a> {
    /// The arguments, not yet parsed.
    pub arguments: Arguments<'a>,
    /// What follows the task.
    pub embed: Embed,
}

impl<'a> Body<'a> {
    /// Reads `[args, kwargs, embed]`.
    ///
    /// # Errors
    /// A text that names what is wrong with the body; the message can never be run.
    pub fn parse(body: &'a [u8]) -> Result<Self, String> {
        let Parts(positional, Keywords(keyword), embed) = serde_json::from_slice(body).map_err(|error| {
            format!("the body is not `[args, kwargs, embed]`: {}", describe_problem(body, &error))
        })?;
        Ok(Self { arguments: Arguments::call(positional, keyword), embed: embed.unwrap_or_default() })
    }

    /// Reads a plain message: its payload is the one argument.
    pub fn plain(body: &'a Bytes, content_type: Option<&'a str>) -> Self {
        Self { arguments: Arguments::payload(body, content_type), embed: Embed::default() }
    }
}

/// Describes the first of the three parts that is invalid, in the protocol's terms.
fn describe_problem(body: &[u8], error: &serde_json::Error) -> String {
    let json = match std::str::from_utf8(body) {
        Ok(json) => json,
        Err(error) => return not_utf8(error),
    };
    let parts = match serde_json::from_str::<Vec<&RawValue>>(json) {
        Ok(parts) => parts,
        Err(_) if error.is_data() => return "it is not an array".into(),
        Err(error) => return Undecodable::from(&error).to_string(),
    };
    let names = ["args", "kwargs", "embed"];
    if let Some(missing) = names.get(parts.len()) {
        return format!("it has {} parts, and `{missing}` is missing", parts.len());
    }
    if parts.len() > names.len() {
        return format!("it has {} parts", parts.len());
    }
    if serde_json::from_str::<Vec<&RawValue>>(parts[0].get()).is_err() {
        return "`args` is not an array".into();
    }
    if serde_json::from_str::<Keywords<'_>>(parts[1].get()).is_err() {
        return "`kwargs` is not an object".into();
    }
    format!("`embed`: {}", Undecodable::from(error))
}

/// Describes where a text stops being valid UTF-8.
pub(super) fn not_utf8(error: std::str::Utf8Error) -> String {
    format!("the text is not UTF-8 (byte {})", error.valid_up_to() + 1)
}

#[derive(Deserialize)]
struct Parts<'a>(#[serde(borrow)] Vec<&'a RawValue>, #[serde(borrow)] Keywords<'a>, Option<Embed>);

/// An object as a list of pairs; `null` is empty.
pub(crate) struct Keywords<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Keywords<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Keywords<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of keyword arguments")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Keywords(Vec::new()))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    pairs.push((key, value));
                }
                Ok(Keywords(pairs))
            }
        }

        deserializer.deserialize_any(Pairs)
    }
}

/// A key that is borrowed unless it holds escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
