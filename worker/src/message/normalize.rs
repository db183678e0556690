//! Converts received messages from all the forms that Celery sends into the one that the rest of the crate reads.

use std::io::Read;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::codec::Embed;
use super::{Headers, Message, typed};
use crate::error::Undecodable;

/// Converts a received message into the form that the rest of the crate reads: uncompressed, protocol v2. A compressed
/// body may unpack to at most `limit` bytes.
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
    if message.is_task() { typed::check_depth(&message.body) } else { Ok(()) }
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
    callbacks: Option<Vec<Box<RawValue>>>,
    errbacks: Option<Vec<Box<RawValue>>>,
    chord: Option<Box<RawValue>>,
}

fn protocol_1(message: &mut Message) -> Result<(), String> {
    // An object whose `task`, `id` or `args` are of another type is a plain document.
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
    // The arguments stay text: a number may have more digits than any type keeps.
    message.body = format!("[{args},{kwargs},{embed}]").into();
    message.headers = headers;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn task(body: &str) -> Message {
        Message { headers: Headers::for_task("t", "id"), body: body.to_owned().into(), ..Message::default() }
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
