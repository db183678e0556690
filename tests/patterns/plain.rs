//! Messages that name no task.

use bytes::Bytes;
use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{Context, Payload, TaskError, task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::journal::Journal;
use support::places::{Running, eventually, everywhere};

use super::{app_with_tasks, waiting};

#[derive(Deserialize, Serialize)]
struct Order {
    id: u64,
    items: Vec<String>,
}

#[task(topic = "text")]
fn plain_text(ctx: &Context, body: String) {
    ctx.state::<Journal>().write("text", body);
}

#[task(topic = "number")]
fn plain_number(ctx: &Context, number: i64) {
    ctx.state::<Journal>().write("number", number.to_string());
}

#[task(topic = "order")]
fn plain_order(ctx: &Context, order: Order) {
    ctx.state::<Journal>().write("order", format!("{} {}", order.id, order.items.join("+")));
}

#[task(topic = "bytes")]
fn plain_bytes(ctx: &Context, body: Bytes) {
    ctx.state::<Journal>().write("bytes", format!("{body:?}"));
}

#[task(topic = "tick")]
fn plain_nothing(ctx: &Context) {
    ctx.state::<Journal>().write("tick", "ran");
}

#[task(topic = "facts", max_retries = 1, backoff = "1ms..2ms")]
fn plain_facts(ctx: &Context, _body: Bytes) -> Result<(), TaskError> {
    let facts = json!({
        "id": ctx.id(),
        "key": ctx.routing_key(),
        "exchange": ctx.exchange(),
        "type": ctx.properties().content_type,
        "message": ctx.properties().message_id,
        "reply": ctx.properties().reply_to,
        "header": ctx.headers().get("x-shop"),
    });
    ctx.state::<Journal>().write("facts", facts.to_string());
    if ctx.retries() == 0 { Err(TaskError::failed("once more")) } else { Ok(()) }
}

const TASKS: &[&str] = &["plain_*"];

#[test]
fn text_json_and_bytes_arrive_as_what_the_task_takes() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, TASKS, |_| {});
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        support::places::consumed(&app, &place.queue, 1).await;
        let order = Payload::json(&json!({"id": 7, "items": ["tea", "cup"]})).expect("JSON");
        let messages: Vec<(&str, Payload)> = vec![
            ("text", "Hello World".into()),
            ("text", "\"in quotes\"".into()),
            ("text", "".into()),
            ("text", Payload::json("from JSON").expect("JSON")),
            ("number", "42".into()),
            ("number", Payload::json(&43).expect("JSON")),
            ("order", order.clone()),
            ("order", order.bytes().clone().into()),
            ("bytes", vec![0, 159, 255].into()),
            ("bytes", "text".into()),
            ("tick", "whatever".into()),
        ];
        let exchange = app.config().topic_exchange.clone();
        for (key, payload) in messages {
            app.publish(&exchange, key, payload).await.expect("published");
        }
        eventually("all ran", async || journal.read("tick").len() == 1 && journal.read("bytes").len() == 2)
            .await;
        eventually("all ran", async || journal.read("text").len() == 4 && journal.read("order").len() == 2)
            .await;
        assert_eq!(
            journal.sorted("text"),
            ["", "\"in quotes\"", "Hello World", "from JSON"],
            "{}",
            place.name
        );
        assert_eq!(journal.sorted("number"), ["42", "43"]);
        assert_eq!(journal.read("order"), ["7 tea+cup"; 2]);
        assert_eq!(journal.sorted("bytes"), ["b\"\\0\\x9f\\xff\"", "b\"text\""]);
        assert_eq!(running.stop().await.failed, 0);
    });
}

#[test]
fn the_context_tells_the_facts_of_a_message_also_when_it_is_tried_again() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, TASKS, |_| {});
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        support::places::consumed(&app, &place.queue, 1).await;
        let properties = Properties {
            content_type: Some("image/png".into()),
            message_id: Some("message-7".into()),
            reply_to: Some("somewhere".into()),
            ..Properties::default()
        };
        let mut headers = Headers::default();
        headers.set("x-shop", "berlin");
        let exchange = app.config().topic_exchange.clone();
        let publication = Publication {
            exchange: exchange.clone(),
            routing_key: "facts".into(),
            message: Message { properties, headers, body: Bytes::from_static(b"\x89PNG") },
            delay: None,
            mandatory: true,
        };
        app.broker().await.expect("a broker").publish(publication).await.expect("published");
        eventually("it ran twice", async || journal.read("facts").len() == 2).await;
        let expected = json!({
            "id": "message-7", "key": "facts", "exchange": exchange, "type": "image/png",
            "message": "message-7", "reply": "somewhere", "header": "berlin",
        });
        for facts in journal.read("facts") {
            let facts: serde_json::Value = serde_json::from_str(&facts).expect("JSON");
            assert_eq!(facts, expected, "{}", place.name);
        }
        running.stop().await;
    });
}

#[test]
fn a_message_published_to_a_queue_can_be_read_by_any_client() {
    everywhere(async |place| {
        let app = place.app();
        let queue = place.queue.as_str();
        let error = app.publish("", queue, "nobody").await.expect_err("there is no queue yet");
        assert!(error.is_unroutable(), "{}: {error}", place.name);
        app.declare(&mq_worker::Topology::new().queue(queue)).await.expect("declared");
        app.publish("", queue, "somebody").await.expect("published");
        eventually("it lies there", async || waiting(&app, queue).await == Some(1)).await;
        let delivery =
            app.broker().await.expect("a broker").get(queue).await.expect("an answer").expect("a message");
        assert_eq!(delivery.message.body, "somebody");
        let properties = &delivery.message.properties;
        assert_eq!(properties.content_type.as_deref(), Some("text/plain"), "{}", place.name);
        assert!(properties.message_id.is_some());
        delivery.ack();
    });
}
