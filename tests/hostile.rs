//! Messages written to do harm: each is dead-lettered with its reason or run as the call it describes, and the worker
//! survives. Arbitrary bytes are covered by `fuzz/`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use mq_worker::broker::{Broker, Publication};
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{
    App, Binding, Config, Context, Exchange, ExchangeKind, SharedState, TaskError, Topology, task,
};
use serde_json::{Value, json};
use support::Process;
use support::places::{Place, Running, eventually, everywhere};

/// The maximum body size in these tests.
const LARGEST: usize = 256 * 1024;
/// Nested deeper than any thread's stack allows.
const DEEP: usize = 100_000;

#[task(name = "hostile.take", max_retries = 0)]
async fn take(ctx: &Context, value: Value) -> bool {
    ctx.state::<Arc<AtomicU64>>().fetch_add(1, Ordering::Relaxed);
    value.is_null()
}

#[task(name = "hostile.fail", max_retries = 3)]
async fn fail() -> Result<(), TaskError> {
    Err(TaskError::failed("as ever"))
}

fn call(task: &str, headers: Value, body: impl Into<Vec<u8>>) -> Message {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let id = format!("hostile-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut all = Headers::for_task(task, &id);
    for (name, value) in headers.as_object().expect("an object") {
        all.set(name, value.clone());
    }
    let properties = Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some(id),
        ..Properties::default()
    };
    Message { properties, headers: all, body: body.into().into() }
}

fn nested(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

fn packed(body: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(body).expect("written to memory");
    encoder.finish().expect("written to memory")
}

async fn publish(broker: &dyn Broker, place: &Place, message: Message) {
    let publication =
        Publication { routing_key: place.queue.clone(), message, mandatory: true, ..Publication::default() };
    broker.publish(publication).await.expect("the broker takes it");
}

/// Takes all dead letters and returns their reasons by id.
async fn letters(broker: &dyn Broker, place: &Place) -> Vec<(String, String, String)> {
    let mut letters = Vec::new();
    while let Ok(Some(letter)) = broker.get(&place.dead()).await {
        let header = |name: &str| letter.message.headers.get_str(name).unwrap_or_default().to_owned();
        letters.push((header("id"), header("mq-dead-reason"), header("mq-dead-error")));
        letter.ack();
    }
    letters
}

/// Starts a worker with a counter of its runs.
fn started(place: &Place) -> (App, Running, Arc<AtomicU64>) {
    let runs = Arc::new(AtomicU64::new(0));
    let mut state = SharedState::default();
    state.insert(Arc::clone(&runs));
    let change = |config: &mut Config| {
        config.max_message_size = LARGEST;
        config.worker.concurrency = 4;
    };
    let worker = Running::start(place.app_with(change), state);
    (place.app(), worker, runs)
}

#[test]
fn a_hostile_message_that_cannot_run_is_dead_lettered_with_its_reason() {
    everywhere(async |place| {
        let gzip = json!({"compression": "application/x-gzip"});
        let hostile = [
            (
                call("hostile.take", json!({}), format!("[[{}],{{}},{{}}]", nested(DEEP))),
                "bad-arguments",
                "recursion limit",
            ),
            (
                call("hostile.take", json!({}), format!("[[],{{\"value\":{}}},{{}}]", nested(DEEP))),
                "bad-arguments",
                "recursion",
            ),
            (
                call("hostile.take", json!({}), format!("[[1],{{}},{{\"chain\":[{}]}}]", nested(DEEP))),
                "malformed",
                "recursion limit",
            ),
            (call("hostile.take", json!({}), nested(DEEP)), "malformed", "not `[args, kwargs, embed]`"),
            (
                call(
                    "hostile.take",
                    json!({}),
                    format!(
                        "[[{}],{{}},{{}}]",
                        r#"{"__type__":"x","__value__":"#.repeat(9000) + "1" + &"}".repeat(9000)
                    ),
                ),
                "malformed",
                "nested deeper",
            ),
            (call("hostile.take", json!({}), "[".repeat(DEEP)), "malformed", "not `[args, kwargs, embed]`"),
            (
                call("hostile.take", gzip.clone(), packed(&vec![b' '; 64 << 20])),
                "malformed",
                "unpacks to more than 262144 bytes",
            ),
            (call("hostile.take", gzip, "no zlib at all"), "malformed", "cannot be read"),
            (
                call("hostile.take", json!({}), vec![b' '; LARGEST + 1]),
                "malformed",
                "more than the limit of 262144",
            ),
            (call("hostile.take", json!({}), &b"[[\"\xff\xfe\"],{},{}]"[..]), "malformed", "not UTF-8"),
            (
                call("hostile.take", json!({}), &b"\x00\x00\x00"[..]),
                "malformed",
                "not `[args, kwargs, embed]`",
            ),
            (
                call("hostile.take", json!({"eta": "+262142-12-31T23:59:59Z"}), "[[1],{},{}]"),
                "malformed",
                "`eta` is not a time",
            ),
            (
                call("hostile.take", json!({"expires": 1e300}), "[[1],{},{}]"),
                "malformed",
                "`expires` is not a time",
            ),
            (call("hostile.take", json!({"mq-crashes": u32::MAX}), "[[1],{},{}]"), "crashed", "died"),
            (
                call("hostile.fail", json!({"retries": i64::MAX}), "[[],{},{}]"),
                "retries-exhausted",
                "as ever",
            ),
            (call("no\u{0}body", json!({}), "[[],{},{}]"), "unknown-task", "no task"),
        ];
        let (app, worker, _) = started(&place);
        let broker = app.broker().await.expect("a broker");
        support::places::consumed(&app, &place.queue, 1).await;
        let mut expected = Vec::new();
        for (message, reason, error) in hostile {
            expected.push((message.id().expect("an id").to_owned(), reason, error));
            publish(&*broker, &place, message).await;
        }
        let mut found = Vec::new();
        let all = std::sync::Mutex::new(&mut found);
        eventually("all are dead-lettered", async || {
            let more = letters(&*broker, &place).await;
            let mut all = all.lock().expect("not poisoned");
            all.extend(more);
            all.len() >= expected.len()
        })
        .await;
        for (id, reason, error) in expected {
            let letter = found.iter().find(|(other, ..)| *other == id);
            let (_, found_reason, found_error) =
                letter.unwrap_or_else(|| panic!("{}: no letter for {error}", place.name));
            assert_eq!(found_reason, reason, "{}: {error}, not {found_error}", place.name);
            assert!(found_error.contains(error), "{}: {error}, not {found_error}", place.name);
        }
        let summary = worker.stop().await;
        assert_eq!((summary.failed, summary.succeeded), (16, 0), "{}", place.name);
    });
}

#[test]
fn a_strange_but_valid_message_runs() {
    everywhere(async |place| {
        let many: serde_json::Map<String, Value> =
            (0..3000).map(|n| (format!("h{n}"), Value::Null)).collect();
        let chain = json!({"chain": [{
            "task": "hostile.take", "args": [], "kwargs": {}, "subtask_type": null, "immutable": false,
            "options": {"queue": place.queue, "task_id": "later", "eta": "9999-12-31T23:59:59Z"},
        }]});
        let mut urgent = call("hostile.take", json!({}), "[[1],{},{}]");
        urgent.properties.priority = Some(255);
        urgent.properties.timestamp = Some(u64::MAX);
        let strange = [
            call("hostile.take", Value::Object(many), "[[1],{},{}]"),
            call("hostile.take", json!({"timelimit": [1e300, -1]}), "[[1],{},{}]"),
            call(
                "hostile.take",
                json!({"timelimit": "soon", "retries": -1, "ignore_result": []}),
                "[[1],{},{}]",
            ),
            call("hostile.take", json!({"expires": "9999-12-31T23:59:59.999999-23:59"}), "[[1],{},{}]"),
            call(
                "hostile.take",
                json!({"x": {"deep": serde_json::from_str::<Value>(&nested(100)).expect("JSON")}}),
                "[[1],{},{}]",
            ),
            call("hostile.take", json!({}), format!("[[{}],{{}},{{}}]", nested(120))),
            call("hostile.take", json!({}), "[[\"\\u0000\"],{},{}]"),
            call("hostile.take", json!({}), format!("[[1],{{}},{chain}]")),
            urgent,
        ];
        let count = u64::try_from(strange.len()).expect("a few");
        let (app, worker, runs) = started(&place);
        let broker = app.broker().await.expect("a broker");
        support::places::consumed(&app, &place.queue, 1).await;
        for message in strange {
            publish(&*broker, &place, message).await;
        }
        // It waits without occupying a slot.
        publish(
            &*broker,
            &place,
            call("hostile.take", json!({"eta": "9999-12-31T23:59:59Z"}), "[[1],{},{}]"),
        )
        .await;
        // A result is requested for a task whose id is too long for any AMQP property.
        let mut long = call("hostile.take", json!({"id": "i".repeat(3000)}), "[[1],{},{}]");
        long.properties.reply_to = Some("nobody".into());
        publish(&*broker, &place, long).await;
        eventually("all are run", async || runs.load(Ordering::Relaxed) == count + 1).await;
        let summary = worker.stop().await;
        assert_eq!((summary.succeeded, summary.failed), (count + 1, 0), "{}", place.name);
    });
}

/// RabbitMQ passes on what a publisher wrote, byte by byte.
#[test]
fn properties_that_no_client_would_write_stop_no_worker() {
    let Some(python) = support::python::python("pika") else { return };
    everywhere(async |place| {
        if !place.name.starts_with("rabbitmq") {
            return;
        }
        let (app, worker, runs) = started(&place);
        let broker = app.broker().await.expect("a broker");
        support::places::consumed(&app, &place.queue, 1).await;
        let exchange = support::unique("hostile");
        let topology = Topology {
            exchanges: vec![Exchange::new(&exchange, ExchangeKind::Topic)],
            bindings: vec![Binding::new(&exchange, &place.queue, "key.#")],
            ..Topology::default()
        };
        broker.declare(&topology).await.expect("declared");
        let script = Process::spawn(&mut python.script("hostile.py", [&place.queue, &exchange]));
        let ended = script.wait(Duration::from_secs(60));
        assert!(ended.status.success(), "{}", ended.stderr);
        let found = std::sync::Mutex::new(Vec::new());
        eventually("three are dead-lettered, six are run", async || {
            let more = letters(&*broker, &place).await;
            let mut found = found.lock().expect("not poisoned");
            found.extend(more);
            found.len() == 3 && runs.load(Ordering::Relaxed) == 6
        })
        .await;
        let found = found.into_inner().expect("not poisoned");
        let deep = |(_, reason, error): &&(String, String, String)| {
            reason == "malformed" && error.contains("cannot be read: a header is nested too deeply")
        };
        assert_eq!(found.iter().filter(deep).count(), 2, "{found:?}");
        assert!(found.iter().any(|(id, reason, _)| id == "fat" && reason == "unknown-task"), "{found:?}");
        let summary = worker.stop().await;
        assert_eq!((summary.failed, summary.succeeded), (3, 6), "{}", place.name);
        broker.delete_exchange(&exchange, Default::default()).await.expect("deleted");
    });
}
