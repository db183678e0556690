//! Received messages in all the forms that Celery sends, brought into the one that the rest of the crate reads.

use std::borrow::Cow;
use std::io::Read;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::codec::{Embed, Keywords};
use super::{Headers, Message};
use crate::error::Undecodable;

/// No value is nested deeper than this: serde's own limit for what it reads into values.
const DEEPEST: usize = 128;

/// Brings a received message into the form that the rest of the crate reads: uncompressed, protocol v2,
/// with kombu's typed values written as plain JSON. A compressed body may unpack to at most `limit` bytes.
///
/// # Errors
/// A text that names what is wrong; the message can never be run.
pub fn normalize(message: &mut Message, limit: usize) -> Result<(), String> {
    if let Some(kind) = message.headers.get_str("compression") {
        // Celery calls it gzip; the bytes are zlib's.
        if kind != "application/x-gzip" {
            return Err(format!("the body is compressed with `{kind}`, which is not supported"));
        }
        message.body = inflate(&message.body, limit)?;
        message.headers.remove("compression");
    }
    let is_json =
        message.properties.content_type.as_deref().is_some_and(|kind| kind.starts_with(super::JSON));
    if !message.is_task() && is_json && looks_like_protocol_1(&message.body) {
        protocol_1(message)?;
    }
    if message.is_task() && contains(&message.body, TYPE_KEY) {
        let body = serde_json::from_slice(&message.body).map_err(|error| not_json(&error))?;
        let mut plain = Vec::with_capacity(message.body.len());
        write_plain(body, 0, &mut plain)?;
        message.body = plain.into();
    }
    Ok(())
}

fn not_json(error: &serde_json::Error) -> String {
    format!("the body is not JSON: {}", Undecodable::from(error))
}

fn inflate(body: &[u8], limit: usize) -> Result<Bytes, String> {
    let mut out = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    flate2::read::ZlibDecoder::new(body)
        .take(most.saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|error| format!("the compressed body cannot be read: {error}"))?;
    if out.len() > limit {
        return Err(format!("the body unpacks to more than {limit} bytes (`max_message_size`)"));
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
#[derive(Default, Deserialize)]
#[serde(default)]
struct Version1<'a> {
    task: String,
    id: String,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    #[serde(borrow)]
    kwargs: Option<&'a RawValue>,
    retries: Option<Value>,
    eta: Option<Value>,
    expires: Option<Value>,
    timelimit: Option<Value>,
    group: Option<Value>,
    group_index: Option<Value>,
    taskset: Option<Value>,
    callbacks: Option<Vec<Value>>,
    errbacks: Option<Vec<Value>>,
    chord: Option<Value>,
}

fn protocol_1(message: &mut Message) -> Result<(), String> {
    // An object whose `task`, `id` or `args` are something else is somebody's plain document.
    let Ok(call) = serde_json::from_slice::<Version1<'_>>(&message.body) else { return Ok(()) };
    let begins = |json: Option<&RawValue>, sign| json.is_none_or(|json| json.get().starts_with(sign));
    if call.task.is_empty() || call.id.is_empty() || !begins(call.args, '[') || !begins(call.kwargs, '{') {
        return Ok(());
    }
    let mut headers = Headers::for_task(&call.task, &call.id);
    for (name, value) in [
        ("retries", call.retries),
        ("eta", call.eta),
        ("expires", call.expires),
        ("timelimit", call.timelimit),
        ("group", call.group.or(call.taskset)),
        ("group_index", call.group_index),
    ] {
        if let Some(value) = value {
            headers.set(name, value);
        }
    }
    for (name, value) in message.headers.iter() {
        headers.set(name, value.clone());
    }
    let embed = Embed { callbacks: call.callbacks, errbacks: call.errbacks, chain: None, chord: call.chord };
    let args = call.args.map_or("[]", RawValue::get);
    let kwargs = call.kwargs.map_or("{}", RawValue::get);
    let embed = serde_json::to_string(&embed).map_err(|error| not_json(&error))?;
    // The arguments stay the text that they are: a number may have more digits than any type keeps.
    message.body = format!("[{args},{kwargs},{embed}]").into();
    message.headers = headers;
    Ok(())
}

/// What is in each object by which kombu writes values that JSON does not have.
const TYPE_KEY: &[u8] = b"\"__type__\"";

/// Writes JSON with each `{"__type__": …, "__value__": …}` replaced by the value itself, as serde's types read
/// it. All else is copied, digit by digit.
fn write_plain(json: &RawValue, depth: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let text = json.get();
    if !contains(text.as_bytes(), TYPE_KEY) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    if depth > DEEPEST {
        return Err(format!("the body is nested deeper than {DEEPEST} levels"));
    }
    if text.starts_with('[') {
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| not_json(&error))?;
        out.push(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            write_plain(item, depth + 1, out)?;
        }
        out.push(b']');
        return Ok(());
    }
    let Keywords(pairs) = serde_json::from_str(text).map_err(|error| not_json(&error))?;
    if let Some((kind, value)) = typed(&pairs) {
        return match uuid_hex(&kind, value) {
            Some(uuid) => serde_json::to_writer(out, &uuid).map_err(|error| not_json(&error)),
            None => write_plain(value, depth + 1, out),
        };
    }
    out.push(b'{');
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, &name).map_err(|error| not_json(&error))?;
        out.push(b':');
        write_plain(value, depth + 1, out)?;
    }
    out.push(b'}');
    Ok(())
}

/// The type and the value, if this object is one of kombu's.
fn typed<'a>(pairs: &[(Cow<'a, str>, &'a RawValue)]) -> Option<(String, &'a RawValue)> {
    let get = |name: &str| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let (kind, value) = (get("__type__")?, get("__value__")?);
    (pairs.len() == 2).then_some(())?;
    Some((serde_json::from_str(kind.get()).ok()?, value))
}

/// A UUID as its own type reads it, if the value is one.
fn uuid_hex(kind: &str, value: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Hex {
        hex: String,
    }

    if kind != "uuid" {
        return None;
    }
    let Hex { hex } = serde_json::from_str(value.get()).ok()?;
    Some(uuid::Uuid::try_parse(&hex).map_or(hex, |id| id.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn task(body: &str) -> Message {
        Message { headers: Headers::for_task("t", "id"), body: body.to_owned().into(), ..Message::default() }
    }

    fn normalized(body: &str) -> Result<String, String> {
        let mut message = task(body);
        normalize(&mut message, LIMIT)?;
        Ok(String::from_utf8(message.body.to_vec()).expect("JSON is UTF-8"))
    }

    #[test]
    fn typed_values_become_plain_and_all_else_stays_digit_by_digit() {
        for (body, expected) in [
            (r#"[[{"__type__":"decimal","__value__":"1.10"}],{},{}]"#, r#"[["1.10"],{},{}]"#),
            (
                r#"[[{"__value__":{"hex":"0123456789abcdef0123456789abcdef"},"__type__":"uuid"}],{},{}]"#,
                r#"[["01234567-89ab-cdef-0123-456789abcdef"],{},{}]"#,
            ),
            (
                // Neither number survives a way through `f64`.
                r#"[[123456789012345678901234567890, 0.30000000000000004e-1, {"__type__":"date","__value__":"2031-01-02"}],{},{}]"#,
                r#"[[123456789012345678901234567890,0.30000000000000004e-1,"2031-01-02"],{},{}]"#,
            ),
            (r#"[[],{"a\"b":{"__type__":"time","__value__":"03:04"}},{}]"#, r#"[[],{"a\"b":"03:04"},{}]"#),
            // One of kombu's has exactly these two keys, and a text for its type.
            (
                r#"[[{"__type__":"x","__value__":1,"more":2},{"__type__":1,"__value__":2}],{},{}]"#,
                r#"[[{"__type__":"x","__value__":1,"more":2},{"__type__":1,"__value__":2}],{},{}]"#,
            ),
        ] {
            assert_eq!(normalized(body).expect(body), expected);
        }
    }

    #[test]
    fn typed_values_that_are_nested_too_deeply_are_refused() {
        let body = |levels: usize| {
            let typed = r#"{"__type__":"decimal","__value__":"1"}"#;
            format!("{}{typed}{}", "[".repeat(levels), "]".repeat(levels))
        };
        assert_eq!(
            normalized(&body(100)),
            Ok(body(100).replace(r#"{"__type__":"decimal","__value__":"1"}"#, "\"1\""))
        );
        assert!(normalized(&body(200)).is_err_and(|error| error.contains("nested deeper")));
    }

    #[test]
    fn a_document_that_only_looks_like_a_call_stays_as_it_is() {
        for body in [
            r#"{"task":"clean","id":7}"#,
            r#"{"task":"","id":"7"}"#,
            r#"{"task":"clean","id":"7","args":"all"}"#,
            r#"{"task":"clean","id":"7","kwargs":[]}"#,
            r#"{"note":"\"task\" and \"id\""}"#,
        ] {
            let mut message = Message { headers: Headers::default(), ..task(body) };
            message.properties.content_type = Some("application/json".into());
            let before = message.clone();
            normalize(&mut message, LIMIT).expect(body);
            assert_eq!(message, before);
        }
    }

    #[test]
    fn a_call_of_protocol_1_keeps_every_digit() {
        let body =
            r#"{"task":"t","id":"i","args":[123456789012345678901234567890],"kwargs":null,"taskset":"g"}"#;
        let mut message = Message { headers: Headers::default(), ..task(body) };
        message.properties.content_type = Some("application/json; charset=utf-8".into());
        normalize(&mut message, LIMIT).expect("a call");
        assert_eq!(&message.body[..], b"[[123456789012345678901234567890],{},{}]");
        assert_eq!((message.headers.task(), message.headers.group()), (Some("t"), Some("g")));
    }

    #[test]
    fn a_body_that_unpacks_to_too_much_or_to_nothing_is_refused() {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&[b'x'; 10_000]).expect("written to memory");
        let packed = encoder.finish().expect("written to memory");
        assert!(packed.len() < 100);
        assert_eq!(inflate(&packed, 10_000).expect("it fits").len(), 10_000);
        assert!(inflate(&packed, 9_999).is_err_and(|error| error.contains("more than 9999 bytes")));
        assert!(inflate(&packed[..20], 10_000).is_err());
        assert!(inflate(b"not packed at all", 10_000).is_err());
    }
}
