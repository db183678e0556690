//! Messages that cannot be settled normally: they release their slot and end up in the dead-letter queue with the reason.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_worker::broker::{Delivery, Publication};
use mq_worker::message::{Headers, Message};
use mq_worker::{App, Context, FailedTask, Overflow, Queue, QueueKind, SendOptions, TaskError, Topology};
use mq_worker::{on_failure, task};
use serde_json::{Value, json};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};
use support::unique;

#[task(name = "settled.fails", max_retries = 1, backoff = "1ms..5ms")]
async fn fails(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("failed", ctx.id());
    Err(TaskError::failed("e".repeat(10_000)))
}

#[task(name = "settled.crowded", max_retries = 1)]
async fn crowded(ctx: &Context) -> Result<(), TaskError> {
    let journal = ctx.state::<Journal>();
    journal.write("began", ctx.id());
    while journal.read("go on").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(TaskError::retry_in(Duration::ZERO, "too many people"))
}

#[task(name = "settled.works")]
async fn works(ctx: &Context) {
    ctx.state::<Journal>().write("worked", ctx.id());
}

#[task(name = "settled.far", max_retries = 1)]
async fn far() -> Result<(), TaskError> {
    Err(TaskError::retry_in(Duration::MAX, "in the next life"))
}

#[task(name = "settled.hopeless", max_retries = 0)]
async fn hopeless() -> Result<(), TaskError> {
    Err(TaskError::failed("no"))
}

static CUT: AtomicU32 = AtomicU32::new(0);

/// A failure hook that never returns for one task.
#[on_failure]
async fn z_endless_listener(failed: &FailedTask) -> Result<(), TaskError> {
    if failed.task() == "settled.hopeless" {
        CUT.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Returns an application with one slot.
fn app(place: &Place) -> App {
    place.app_with(|config| config.worker.concurrency = 1)
}

async fn waiting(app: &App, queue: &str) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
    queues.first().map_or(0, |queue| queue.ready)
}

async fn publish(app: &App, queue: &str, headers: Headers, body: String) {
    let publication = Publication {
        routing_key: queue.to_owned(),
        message: Message { headers, body: body.into(), ..Message::default() },
        mandatory: true,
        ..Publication::default()
    };
    app.broker().await.expect("a broker").publish(publication).await.expect("published");
}

fn call(task: &str, id: &str, own: &[(&str, Value)]) -> Headers {
    let mut headers = Headers::for_task(task, id);
    headers.set("ignore_result", true);
    own.iter().for_each(|(name, value)| headers.set(*name, value.clone()));
    headers
}

const NO_ARGUMENTS: &str = "[[],{},{}]";

async fn letters(app: &App, dead: &str, count: u64) -> Vec<Delivery> {
    eventually("the dead letters are there", async || waiting(app, dead).await == count).await;
    let broker = app.broker().await.expect("a broker");
    let mut letters = Vec::new();
    while let Some(letter) = broker.get(dead).await.expect("an answer") {
        letters.push(letter);
    }
    letters
}

fn header<'a>(letter: &'a Delivery, name: &str) -> &'a str {
    letter.message.headers.get_str(name).unwrap_or_default()
}

async fn works_on(app: &App, place: &Place, journal: &Journal) {
    let before = journal.read("worked").len();
    app.send(works.with().queue(&place.queue).ignore_result()).await.expect("sent");
    eventually("the next one runs", async || journal.read("worked").len() > before).await;
}

/// Where the headers that a worker adds do not fit, its copies drop the largest headers and record that.
#[test]
fn a_message_with_headers_as_large_as_can_be_holds_no_slot() {
    everywhere(async |place| {
        let (app, journal) = (app(&place), Journal::default());
        let running = Running::start(app.clone(), journal.shared());
        let note = ("note".to_owned(), Value::from("x".repeat(130_900)));
        for task in ["settled.fails", "settled.nobody"] {
            let options = SendOptions {
                queue: Some(place.queue.clone()),
                task_id: Some(task.to_owned()),
                ignore_result: Some(true),
                headers: vec![note.clone(), ("kept".to_owned(), "7".into())],
                ..SendOptions::default()
            };
            let none = serde_json::Map::new();
            app.send_call::<()>(task, &[0_u8; 0], &none, options).await.expect("it just fits");
        }
        let letters = letters(&app, &place.dead(), 2).await;
        assert_eq!(journal.read("failed"), ["settled.fails"; 2], "{}: retried once", place.name);
        for letter in letters {
            let (reason, dropped) =
                (header(&letter, "mq-dead-reason"), header(&letter, "mq-dropped-headers"));
            let expected = match letter.message.headers.task() {
                Some("settled.fails") => "retries-exhausted",
                _ => "unknown-task",
            };
            assert_eq!((reason, header(&letter, "kept")), (expected, "7"), "{}", place.name);
            let has_note = !header(&letter, "note").is_empty();
            assert!(has_note != dropped.contains("note"), "{}: {dropped}", place.name);
            assert_eq!(has_note, !place.name.starts_with("rabbitmq"), "{}", place.name);
            letter.ack();
        }
        works_on(&app, &place, &journal).await;
        running.stop().await;
    });
}

#[test]
fn no_shape_of_headers_holds_a_slot() {
    everywhere(async |place| {
        let (app, journal) = (app(&place), Journal::default());
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let many: Vec<(String, Value)> = (0..5600).map(|n| (format!("header-{n:0>10}"), json!(n))).collect();
        let many: Vec<(&str, Value)> =
            many.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        let nested = (0..100).fold(json!("x".repeat(129_500)), |value, _| json!({ "a": value }));
        let long = "l".repeat(130_000);
        for headers in [
            call("settled.fails", "many", &many),
            call("settled.fails", "nested", &[("nested", nested)]),
            call("settled.fails", &long, &[]),
            call(&long, "a long name", &[]),
            call("settled.fails", "error", &[("root_id", long.as_str().into())]),
        ] {
            publish(&app, &place.queue, headers, NO_ARGUMENTS.into()).await;
        }
        letters(&app, &place.dead(), 5).await.into_iter().for_each(Delivery::ack);
        works_on(&app, &place, &journal).await;
        running.stop().await;
    });
}

/// Names too long for a routing key of the delay ladder, and names that leave no room for `.dead`.
#[test]
fn a_queue_of_any_name_has_retries_and_dead_letters() {
    everywhere(async |place| {
        let (short, long) = (unique("q"), unique("q"));
        for queue in
            [format!("{short:q<210}"), format!("{long:q<251}"), format!("{short}.#"), format!("*.{long}")]
        {
            let app = place.app_with(|config| {
                config.worker.concurrency = 1;
                config.worker.queues = vec![queue.clone()];
            });
            let journal = Journal::default();
            let running = Running::start(app.clone(), journal.shared());
            app.send(fails.with().queue(&queue).ignore_result()).await.expect("sent");
            let dead = Queue::dead_letter_name(&queue);
            letters(&app, &dead, 1).await.into_iter().for_each(Delivery::ack);
            assert_eq!(journal.read("failed").len(), 2, "{}: {queue}", place.name);
            running.stop().await;
            let broker = app.broker().await.expect("a broker");
            for queue in [queue, dead] {
                let _ = broker.delete_queue(&queue).await;
            }
        }
    });
}

#[test]
fn a_retry_beyond_all_time_waits_as_long_as_can_be() {
    everywhere(async |place| {
        let (app, journal) = (app(&place), Journal::default());
        let running = Running::start(app.clone(), journal.shared());
        let job = app.send(far.with().queue(&place.queue).ignore_result()).await.expect("sent");
        works_on(&app, &place, &journal).await;
        assert_eq!(waiting(&app, &place.dead()).await, 0, "{}", place.name);
        drop(job);
        assert_eq!(running.stop().await.retried, 1, "{}", place.name);
    });
}

/// The retry waits for room, but only the retry itself would make room.
#[test]
fn a_retry_that_its_own_full_queue_refuses_becomes_a_dead_letter() {
    everywhere(async |place| {
        if place.name == "memory" || place.name == "rabbitmq quorum" {
            return;
        }
        let full = Queue {
            kind: Some(QueueKind::Classic),
            max_length: Some(1),
            overflow: Some(Overflow::RejectPublish),
            ..Queue::new(&place.queue)
        };
        let app = place.app_with(|config| {
            config.worker.concurrency = 1;
            config.topology = Topology { queues: vec![full], ..Topology::default() };
        });
        app.send(crowded.with().queue(&place.queue).ignore_result()).await.expect("there is room");
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        eventually("it runs", async || journal.read("began").len() == 1).await;
        app.send(works.with().queue(&place.queue).ignore_result()).await.expect("there is room");
        journal.write("go on", "");
        let letters = letters(&app, &place.dead(), 1).await;
        assert_eq!(header(&letters[0], "mq-dead-reason"), "unsettled", "{}", place.name);
        letters.into_iter().for_each(Delivery::ack);
        eventually("the other one runs", async || !journal.read("worked").is_empty()).await;
        running.stop().await;
    });
}

#[test]
fn a_step_that_can_never_be_sent_ends_its_chain_in_the_dead_letter_queue() {
    everywhere(async |place| {
        let (app, journal) = (app(&place), Journal::default());
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let step = json!({
            "task": "settled.works", "args": [], "kwargs": {}, "options": {"queue": "q".repeat(300)},
        });
        let body = json!([[], {}, {"chain": [step], "callbacks": null, "errbacks": null, "chord": null}]);
        publish(&app, &place.queue, call("settled.works", "first", &[]), body.to_string()).await;
        let letters = letters(&app, &place.dead(), 1).await;
        assert_eq!(header(&letters[0], "mq-dead-reason"), "unsettled", "{}", place.name);
        let error = header(&letters[0], "mq-dead-error");
        assert!(
            error.contains("it succeeded, but cannot send the follow-up messages"),
            "{}: {error}",
            place.name
        );
        letters.into_iter().for_each(Delivery::ack);
        works_on(&app, &place, &journal).await;
        running.stop().await;
    });
}

#[test]
fn a_failure_hook_that_does_not_end_is_cut_by_a_cold_shutdown() {
    everywhere(async |place| {
        let app = app(&place);
        let running = Running::start(app.clone(), Journal::default().shared());
        let before = CUT.load(Ordering::SeqCst);
        app.send(hopeless.with().queue(&place.queue).ignore_result()).await.expect("sent");
        eventually("it is reported", async || CUT.load(Ordering::SeqCst) > before).await;
        running.handle().stop_now();
        let within = tokio::time::timeout(Duration::from_secs(8), running.ended()).await;
        assert_eq!(within.expect("long before the hook's own limit").failed, 1, "{}", place.name);
        assert_eq!(waiting(&app, &place.dead()).await, 1, "{}: and it is settled", place.name);
        assert_eq!(waiting(&app, &place.queue).await, 0, "{}", place.name);
    });
}

#[test]
fn headers_of_the_protocol_and_of_the_broker_are_refused() {
    everywhere(async |place| {
        let app = app(&place);
        for name in [
            "id",
            "task",
            "ignore_result",
            "eta",
            "expires",
            "retries",
            "root_id",
            "parent_id",
            "group",
            "lang",
            "argsrepr",
            "timelimit",
            "reply_to",
            "origin",
            "x-death",
            "x-delay",
            "x-delivery-count",
            "mq-plain",
            "mq-tomorrow",
            "CC",
            "BCC",
            "",
        ] {
            let call = works.with().queue(&place.queue).header(name, "x");
            let error = app.send(call).await.expect_err(name);
            assert!(error.is_config() && error.to_string().contains(&format!("`{name}`")), "{name}: {error}");
        }
        let call = works.with().queue(&place.queue).header("n".repeat(256), "x");
        assert!(app.send(call).await.expect_err("too long").is_config());
        assert_eq!(waiting(&app, &place.queue).await, 0, "{}", place.name);
        app.send(works.with().queue(&place.queue).header("x-request-id", "x")).await.expect("one's own");
    });
}

/// RabbitMQ copies a message to each queue named in `CC`. Its retries and its dead letter must not be copied there again.
#[test]
fn retries_and_dead_letters_are_not_copied_to_cc_queues_again() {
    everywhere(async |place| {
        let (app, journal, other) = (app(&place), Journal::default(), unique("copies"));
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let broker = app.broker().await.expect("a broker");
        broker.declare(&Topology::of_queue(Queue::new(&other))).await.expect("declared");
        let copies = call("settled.fails", "copied", &[("CC", json!([other])), ("x-own", "kept".into())]);
        publish(&app, &place.queue, copies, NO_ARGUMENTS.into()).await;
        let letters = letters(&app, &place.dead(), 1).await;
        assert_eq!(
            (journal.read("failed").len(), header(&letters[0], "x-own")),
            (2, "kept"),
            "{}",
            place.name
        );
        let expected = u64::from(place.name.starts_with("rabbitmq"));
        assert_eq!(waiting(&app, &other).await, expected, "{}", place.name);
        letters.into_iter().for_each(Delivery::ack);
        running.stop().await;
        broker.delete_queue(&other).await.expect("deleted");
    });
}

/// The broker itself then moves the message to the dead-letter queue.
#[test]
fn a_dead_letter_whose_queue_is_exclusive_to_another_connection_is_rejected() {
    everywhere(async |place| {
        if place.name != "rabbitmq quorum" {
            return;
        }
        let (app, theirs, journal) = (app(&place), place.app(), Journal::default());
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let other = theirs.broker().await.expect("a broker");
        other.delete_queue(&place.dead()).await.expect("deleted");
        let exclusive = Queue {
            exclusive: true,
            durable: false,
            kind: Some(QueueKind::Classic),
            ..Queue::new(place.dead())
        };
        other.declare(&Topology::of_queue(exclusive)).await.expect("declared");
        publish(&app, &place.queue, call("settled.nobody", "rejected", &[]), NO_ARGUMENTS.into()).await;
        let letters = letters(&theirs, &place.dead(), 1).await;
        assert_eq!(letters[0].message.headers.id(), Some("rejected"));
        letters.into_iter().for_each(Delivery::ack);
        publish(&app, &place.queue, call("settled.works", "next", &[]), NO_ARGUMENTS.into()).await;
        eventually("the next one runs", async || journal.read("worked") == ["next"]).await;
        running.stop().await;
        theirs.close().await;
    });
}
