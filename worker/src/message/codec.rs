//! Between bytes and calls: the body `[args, kwargs, embed]` of protocol v2, and protocol v1 read.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Arguments, Headers, Message};
use crate::error::{Error, Result};

/// The argument list of a task without parameters: an empty JSON array, where `()` would be `null`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoArgs;

impl Serialize for NoArgs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_seq(Some(0))?.end()
    }
}

/// What a body carries beside the arguments: signatures to run afterwards, as Celery writes them.
///
/// `chain` is reversed: its last element is the next step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Embed {
    /// Called with the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callbacks: Option<Vec<Value>>,
    /// Called with the id of the failed task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errbacks: Option<Vec<Value>>,
    /// The steps that follow, the next one last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<Vec<Value>>,
    /// The body of the chord that this task is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chord: Option<Value>,
}

impl Embed {
    /// True when nothing follows the task.
    pub fn is_empty(&self) -> bool {
        let none = |list: &Option<Vec<Value>>| list.as_ref().is_none_or(Vec::is_empty);
        none(&self.callbacks) && none(&self.errbacks) && none(&self.chain) && self.chord.is_none()
    }
}

/// Writes the body of a call with positional arguments.
///
/// # Errors
/// When a value has no JSON form, such as a map whose keys are not texts.
pub fn encode<A: Serialize + ?Sized>(args: &A) -> Result<Bytes> {
    let mut body = Vec::with_capacity(128);
    body.push(b'[');
    serde_json::to_writer(&mut body, args)
        .map_err(|error| Error::codec("cannot write the arguments as JSON").with_source(error))?;
    body.extend_from_slice(b",{},{}]");
    Ok(body.into())
}

/// Writes a body whose three parts are at hand as values.
pub fn encode_values(
    args: &[Value],
    kwargs: &serde_json::Map<String, Value>,
    embed: &Embed,
) -> Result<Bytes> {
    serde_json::to_vec(&(args, kwargs, embed))
        .map(Bytes::from)
        .map_err(|error| Error::codec("cannot write the arguments as JSON").with_source(error))
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
        let Parts(positional, Keywords(keyword), embed) = serde_json::from_slice(body)
            .map_err(|error| format!("the body is not `[args, kwargs, embed]`: {error}"))?;
        Ok(Self { arguments: Arguments::call(positional, keyword), embed: embed.unwrap_or_default() })
    }

    /// Reads a plain message: its payload is the one argument.
    pub fn plain(body: &'a Bytes, content_type: Option<&'a str>) -> Self {
        Self { arguments: Arguments::payload(body, content_type), embed: Embed::default() }
    }
}

#[derive(Deserialize)]
struct Parts<'a>(#[serde(borrow)] Vec<&'a RawValue>, #[serde(borrow)] Keywords<'a>, Option<Embed>);

/// An object as a list of pairs; `null` is empty.
struct Keywords<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

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

/// The largest body that a compressed message may unpack to.
const UNPACKED_LIMIT: u64 = 256 * 1024 * 1024;

/// Brings a received message into the form that the rest of the crate reads: uncompressed, protocol v2,
/// with kombu's typed values written as plain JSON.
///
/// # Errors
/// A text that names what is wrong; the message can never be run.
pub fn normalize(message: &mut Message) -> Result<(), String> {
    if let Some(kind) = message.headers.get_str("compression") {
        // Celery calls it gzip; the bytes are zlib's.
        if kind != "application/x-gzip" {
            return Err(format!("the body is compressed with `{kind}`, which is not supported"));
        }
        message.body = inflate(&message.body)?;
        message.headers.remove("compression");
    }
    let is_json =
        message.properties.content_type.as_deref().is_some_and(|kind| kind.starts_with(super::JSON));
    if !message.is_task() && is_json && looks_like_protocol_1(&message.body) {
        protocol_1(message)?;
    }
    if message.is_task() && contains(&message.body, b"\"__type__\"") {
        let mut value: Value = serde_json::from_slice(&message.body)
            .map_err(|error| format!("the body is not JSON: {error}"))?;
        plain_values(&mut value);
        message.body = serde_json::to_vec(&value).expect("a JSON value can be written").into();
    }
    Ok(())
}

fn inflate(body: &[u8]) -> Result<Bytes, String> {
    let mut out = Vec::new();
    flate2::read::ZlibDecoder::new(body)
        .take(UNPACKED_LIMIT + 1)
        .read_to_end(&mut out)
        .map_err(|error| format!("the compressed body cannot be read: {error}"))?;
    if out.len() as u64 > UNPACKED_LIMIT {
        return Err(format!("the body unpacks to more than {UNPACKED_LIMIT} bytes"));
    }
    Ok(out.into())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}

fn looks_like_protocol_1(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{') && contains(body, b"\"task\"") && contains(body, b"\"id\"")
}

/// Protocol v1 carries everything in the body, as one object.
#[derive(Deserialize)]
struct Version1 {
    task: String,
    id: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Option<serde_json::Map<String, Value>>,
    #[serde(default)]
    callbacks: Option<Vec<Value>>,
    #[serde(default)]
    errbacks: Option<Vec<Value>>,
    #[serde(default)]
    chord: Option<Value>,
    #[serde(default)]
    taskset: Option<String>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

fn protocol_1(message: &mut Message) -> Result<(), String> {
    // An object with keys `task` and `id` of other types is somebody's plain document.
    let Ok(call) = serde_json::from_slice::<Version1>(&message.body) else { return Ok(()) };
    let mut headers = Headers::for_task(&call.task, &call.id);
    for name in ["retries", "eta", "expires", "timelimit", "group", "group_index"] {
        if let Some(value) = call.rest.get(name).filter(|value| !value.is_null()) {
            headers.set(name, value.clone());
        }
    }
    if let (None, Some(group)) = (headers.get("group"), call.taskset) {
        headers.set("group", group);
    }
    for (name, value) in message.headers.iter() {
        headers.set(name, value.clone());
    }
    let embed = Embed { callbacks: call.callbacks, errbacks: call.errbacks, chain: None, chord: call.chord };
    message.body =
        encode_values(&call.args, &call.kwargs.unwrap_or_default(), &embed).map_err(|e| e.to_string())?;
    message.headers = headers;
    Ok(())
}

/// Replaces kombu's `{"__type__": …, "__value__": …}` by the value itself, as serde's types read it.
fn plain_values(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(plain_values),
        Value::Object(map) => {
            map.values_mut().for_each(plain_values);
            if map.len() == 2 && map.contains_key("__type__") && map.contains_key("__value__") {
                let kind = map["__type__"].as_str().unwrap_or_default().to_owned();
                let inner = map.remove("__value__").expect("the key was just seen");
                *value = match (kind.as_str(), inner) {
                    ("uuid", Value::Object(uuid)) => hyphenated(uuid.get("hex")),
                    (_, inner) => inner,
                };
            }
        }
        _ => {}
    }
}

fn hyphenated(hex: Option<&Value>) -> Value {
    let Some(hex) = hex.and_then(Value::as_str) else { return Value::Null };
    match uuid::Uuid::try_parse(hex) {
        Ok(id) => Value::String(id.to_string()),
        Err(_) => Value::String(hex.to_owned()),
    }
}
