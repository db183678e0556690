//! Messages are delivered exactly as they were published.

use std::time::Duration;

use bytes::Bytes;
use mq_worker::Queue;
use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use serde_json::json;

use super::super::lab::*;

/// Sends a message through the broker and returns it as delivered.
async fn through(lab: &Lab, message: Message) -> Message {
    let broker = lab.open().await;
    let queue = lab.name("work");
    declare(&broker, [Queue { max_priority: Some(9), ..Queue::new(&queue) }]).await;
    publish(&broker, Publication { message, ..to(&queue, "") }).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    let mut delivery = next(&mut consumer).await;
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    message
}

pub(crate) async fn all_properties_arrive(lab: &Lab) {
    let properties = Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some("id-1".into()),
        reply_to: Some("replies".into()),
        message_id: Some("m-1".into()),
        priority: Some(7),
        expiration: Some(Duration::from_millis(3_600_123)),
        transient: true,
        kind: Some("order.paid".into()),
        app_id: Some("shop ünïcode".into()),
        timestamp: Some(1_795_331_127),
    };
    let message = Message { properties, ..text("{}") };
    assert_eq!(through(lab, message.clone()).await, message);
    // A message without properties gets none.
    let bare = Message { body: Bytes::from_static(b"bare"), ..Message::default() };
    assert_eq!(through(lab, bare.clone()).await, bare);
}

pub(crate) async fn all_types_of_headers_arrive(lab: &Lab) {
    let headers: Headers = [
        ("text", json!("héllo 名前 \u{1F980}")),
        ("empty", json!("")),
        ("long", json!("x".repeat(10_000))),
        ("null", json!(null)),
        ("true", json!(true)),
        ("false", json!(false)),
        ("zero", json!(0)),
        ("negative", json!(-1)),
        ("int", json!(1_000_000)),
        ("beyond 32 bits", json!(5_000_000_000_i64)),
        ("largest", json!(i64::MAX)),
        ("smallest", json!(i64::MIN)),
        ("float", json!(1.5)),
        ("small float", json!(-2.5e-300)),
        ("large float", json!(1e300)),
        ("empty list", json!([])),
        ("empty table", json!({})),
        ("nested", json!({"a": [1, null, {"b": ["c", 2.25, true]}], "": "empty name"})),
        ("timelimit", json!([30, null])),
        ("größe", json!("names too")),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let message = Message { headers, ..text("body") };
    assert_eq!(through(lab, message.clone()).await, message);
}

pub(crate) async fn an_empty_body_arrives(lab: &Lab) {
    assert_eq!(through(lab, text("")).await, text(""));
}

pub(crate) async fn a_large_binary_body_arrives(lab: &Lab) {
    let body: Vec<u8> = (0..1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let message = Message { body: body.into(), ..Message::default() };
    // Not `assert_eq`: a failure would print a million numbers.
    assert!(through(lab, message.clone()).await == message, "the body was changed");
}
