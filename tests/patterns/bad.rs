//! Invalid input: a clear error, and nothing is lost.

use mq_worker::{App, Context, ExchangeKind, Payload, Topology, Worker, task};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};

use super::{app_with_tasks, waiting};

#[task(topic = "count")]
fn bad_number(ctx: &Context, number: u64) {
    ctx.state::<Journal>().write("number", number.to_string());
}

#[task(topic = "count")]
fn bad_text(ctx: &Context, text: String) {
    ctx.state::<Journal>().write("text", text);
}

/// Returns reason, error and body of the next dead letter.
async fn dead_letter(app: &App, place: &Place) -> (String, String, String) {
    eventually("a dead letter is there", async || waiting(app, &place.dead()).await == Some(1)).await;
    let delivery = place.letter(app).await;
    let header = |name| delivery.message.headers.get_str(name).unwrap_or_default().to_owned();
    let body = String::from_utf8(delivery.message.body.to_vec()).expect("text");
    let letter = (header("mq-dead-reason"), header("mq-dead-error"), body);
    delivery.ack();
    letter
}

#[test]
fn a_message_that_fits_one_subscription_and_not_the_other_is_lost_by_neither() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["bad_*"], |_| {});
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let exchange = app.config().topic_exchange.clone();
        app.publish(&exchange, "count", "twelve").await.expect("published");
        let (reason, error, body) = dead_letter(&app, &place).await;
        assert_eq!((reason.as_str(), body.as_str()), ("bad-arguments", "twelve"), "{}", place.name);
        assert!(error.contains("`number`"), "{}: {error}", place.name);
        eventually("the other one ran", async || journal.read("text") == ["twelve"]).await;
        running.stop().await;
    });
}

#[test]
fn a_plain_message_that_no_task_wants_is_dead_lettered_with_the_reason() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["bad_*"], |_| {});
        let running = Running::start(app.clone(), Journal::default().shared());
        consumed(&app, &place.queue, 1).await;
        app.publish("", &place.queue, Payload::json(&["for nobody"]).expect("JSON"))
            .await
            .expect("published");
        let (reason, error, body) = dead_letter(&app, &place).await;
        assert_eq!((reason.as_str(), body.as_str()), ("unknown-task", "[\"for nobody\"]"), "{}", place.name);
        assert!(error.contains(&place.queue) && error.contains("names no task"), "{}: {error}", place.name);
        running.stop().await;
    });
}

#[test]
fn a_topic_over_255_bytes_is_refused() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &[], |_| {});
        let long = "word.".repeat(60);
        let error = app.emit(&long, &1).await.expect_err("too long");
        assert!(error.is_config() && error.to_string().contains("255"), "{}: {error}", place.name);
        let error = app.publish("", &long, "x").await.expect_err("too long");
        assert!(error.is_config(), "{}: {error}", place.name);
        let bound = Topology::new().queue(place.queue.as_str()).bind("amq.topic", &place.queue, &long);
        assert!(app.declare(&bound).await.expect_err("too long").is_config(), "{}", place.name);
    });
}

#[test]
fn a_payload_over_the_limit_is_refused() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &[], |config| config.max_message_size = 10);
        let error = app.publish("", "anywhere", "more than ten bytes").await.expect_err("too large");
        assert!(error.is_too_large(), "{}: {error}", place.name);
    });
}

#[task(exchange = "bad.direct")]
fn silent_forever(_line: String) {}

#[test]
fn a_subscription_that_could_never_get_anything_stops_the_worker() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["silent_forever"], |config| {
            config.topology = Topology::new().exchange("bad.direct", ExchangeKind::Direct);
        });
        let error = Worker::new(app)
            .expect("a worker")
            .without_isolation()
            .run()
            .await
            .expect_err("a direct exchange needs keys");
        let text = error.to_string();
        assert!(
            error.is_config() && text.contains("silent_forever") && text.contains("bad.direct"),
            "{text}"
        );
    });
}

#[test]
fn a_subscription_to_a_missing_exchange_stops_the_worker() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["silent_*"], |config| {
            config.topology = Topology::new().queue(place.queue.as_str());
        });
        let error = Worker::new(app)
            .expect("a worker")
            .without_isolation()
            .run()
            .await
            .expect_err("there is no such exchange");
        assert!(
            error.is_topology() && format!("{error:#}").contains("bad.direct"),
            "{}: {error:#}",
            place.name
        );
    });
}
