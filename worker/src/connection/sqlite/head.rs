//! Properties and headers of a message as one short JSON text, or none if all have their defaults.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Undecodable;
use crate::message::{Headers, JSON, Message, Properties, UTF_8};
use crate::tracing;

/// Short names, and no defaults: this is written with every message.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Head<'a> {
    /// True if content type and encoding are those of every task: `application/json`, `utf-8`.
    #[serde(rename = "j", skip_serializing_if = "is_false")]
    is_json: bool,
    #[serde(rename = "t", skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    content_encoding: Option<Cow<'a, str>>,
    #[serde(rename = "c", skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(rename = "r", skip_serializing_if = "Option::is_none")]
    reply_to: Option<Cow<'a, str>>,
    #[serde(rename = "i", skip_serializing_if = "Option::is_none")]
    message_id: Option<Cow<'a, str>>,
    #[serde(rename = "p", skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(rename = "x", skip_serializing_if = "Option::is_none")]
    expiration: Option<u64>,
    #[serde(rename = "v", skip_serializing_if = "is_false")]
    transient: bool,
    #[serde(rename = "k", skip_serializing_if = "Option::is_none")]
    kind: Option<Cow<'a, str>>,
    #[serde(rename = "a", skip_serializing_if = "Option::is_none")]
    app_id: Option<Cow<'a, str>>,
    #[serde(rename = "s", skip_serializing_if = "Option::is_none")]
    timestamp: Option<u64>,
    #[serde(rename = "h", skip_serializing_if = "no_headers")]
    headers: Cow<'a, Headers>,
}

fn is_false(value: &bool) -> bool {
    !value
}

#[allow(clippy::ptr_arg, reason = "serde calls it with the field")]
fn no_headers(headers: &Cow<'_, Headers>) -> bool {
    headers.is_empty()
}

/// Encodes everything of a message except its body.
pub(crate) fn encode(message: &Message) -> Option<String> {
    let Message { properties, headers, .. } = message;
    if headers.is_empty() && *properties == Properties::default() {
        return None;
    }
    let text = |text: &'_ Option<String>| -> Option<Cow<'static, str>> { text.clone().map(Cow::Owned) };
    let is_json = properties.content_type.as_deref() == Some(JSON)
        && properties.content_encoding.as_deref() == Some(UTF_8);
    let head = Head {
        is_json,
        content_type: properties.content_type.clone().filter(|_| !is_json),
        content_encoding: properties.content_encoding.clone().filter(|_| !is_json),
        correlation_id: text(&properties.correlation_id),
        reply_to: text(&properties.reply_to),
        message_id: text(&properties.message_id),
        priority: properties.priority,
        expiration: properties.expiration.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        transient: properties.transient,
        kind: text(&properties.kind),
        app_id: text(&properties.app_id),
        timestamp: properties.timestamp,
        headers: Cow::Borrowed(headers),
    };
    Some(serde_json::to_string(&head).expect("texts and numbers can be written"))
}

/// Restores a message.
pub(crate) fn decode(head: Option<&str>, body: Bytes) -> Message {
    let Some(head) = head else { return Message { body, ..Message::default() } };
    let head: Head<'_> = serde_json::from_str(head).unwrap_or_else(|error| {
        // Written by another program. The message is delivered as a plain one rather than lost.
        let error = Undecodable::from(&error);
        tracing::error!(%error, "the properties of a message cannot be read");
        Head::default()
    });
    let own = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
    let usual = |usual, other: Option<Cow<'_, str>>| match head.is_json {
        true => Some(Cow::Borrowed(usual)),
        false => other.map(|text| Cow::Owned(text.into_owned())),
    };
    let properties = Properties {
        content_type: usual(JSON, head.content_type),
        content_encoding: usual(UTF_8, head.content_encoding),
        correlation_id: own(head.correlation_id),
        reply_to: own(head.reply_to),
        message_id: own(head.message_id),
        priority: head.priority,
        expiration: head.expiration.map(Duration::from_millis),
        transient: head.transient,
        kind: own(head.kind),
        app_id: own(head.app_id),
        timestamp: head.timestamp,
    };
    Message { properties, headers: head.headers.into_owned(), body }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_everything_comes_back() {
        let text = |text: &str| Some(text.to_owned());
        let mut headers = Headers::for_task("email", "id-1");
        headers.set("retries", 3);
        headers.set("nested", serde_json::json!({"a": [1, "ü", null]}));
        let message = Message {
            properties: Properties {
                content_type: Some("text/plain".into()),
                content_encoding: Some("binary".into()),
                correlation_id: text("c"),
                reply_to: text("r"),
                message_id: text("m"),
                priority: Some(0),
                expiration: Some(Duration::from_millis(1500)),
                transient: true,
                kind: text("k"),
                app_id: text("a"),
                timestamp: Some(7),
            },
            headers,
            body: Bytes::from_static(b"\x00body"),
        };
        assert_eq!(decode(encode(&message).as_deref(), message.body.clone()), message);
    }

    #[test]
    fn a_plain_message_costs_nothing_and_a_task_little() {
        assert_eq!(encode(&Message::default()), None);
        let properties = Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            ..Properties::default()
        };
        let message = Message { properties, ..Message::default() };
        let head = encode(&message);
        assert_eq!(head.as_deref(), Some("{\"j\":true}"));
        assert_eq!(decode(head.as_deref(), Bytes::new()), message);
    }

    #[test]
    fn a_corrupt_head_does_not_lose_the_body() {
        let message = decode(Some("{not json"), Bytes::from_static(b"kept"));
        assert_eq!((message.body.as_ref(), message.headers.is_empty()), (&b"kept"[..], true));
    }
}
