//! Events of workers and producers, on every broker.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mq_worker::broker::{Broker, Publication, Subscription};
use mq_worker::control::Control;
use mq_worker::events::exchange::EVENTS;
use mq_worker::events::{Event, EventKind, EventReader, EventStream};
use mq_worker::{App, Context, Result, SharedState, TaskError, task};
use serde_json::{Map, Value, json};
use support::places::{Place, Running, eventually, everywhere};
use support::unique;

#[task(name = "events.greet")]
async fn greet(name: String) -> String {
    format!("hello {name}")
}

#[task(name = "events.fail", max_retries = 1, backoff = "5ms..10ms")]
async fn fail(what: String) -> std::result::Result<(), TaskError> {
    Err(TaskError::failed(what))
}

#[task(name = "events.climb", ignore_result)]
async fn climb(ctx: &Context) -> Result<()> {
    ctx.progress(3, 12, "the S3CRET path");
    tokio::time::sleep(Duration::from_millis(50)).await;
    ctx.set_state("RESTING", ["hut"])
}

/// Configures a worker with a unique name and a producer that reports what it sends.
fn reporting(place: &Place) -> (App, String) {
    let name = format!("{}@test", unique("events"));
    let app = place.app_with(|config| {
        config.worker.hostname = Some(name.clone());
        config.worker.events = true;
        config.sent_events = true;
    });
    (app, name)
}

/// Returns the events up to and including the first for which `last` is true.
async fn read_to(events: &mut EventStream, last: impl Fn(&Event) -> bool) -> Vec<Event> {
    let mut read = Vec::new();
    let reading = async {
        while let Some(batch) = events.next().await {
            read.extend(batch.events.iter().cloned());
            batch.done();
            if read.iter().any(&last) {
                return;
            }
        }
        panic!("the events have ended");
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), reading).await.is_ok();
    assert!(in_time, "the event does not come: {read:#?}");
    read
}

fn kinds<'a>(events: &'a [Event], id: &str) -> Vec<&'a str> {
    // Producer and worker report independently of each other.
    let of_call = events.iter().filter(|event| event.uuid.as_deref() == Some(id));
    of_call.map(|event| event.kind.name()).filter(|kind| *kind != "task-sent").collect()
}

fn find<'a>(events: &'a [Event], id: &str, kind: &EventKind) -> &'a Event {
    let found = events.iter().find(|event| event.kind == *kind && event.uuid.as_deref() == Some(id));
    found.unwrap_or_else(|| panic!("no {kind} of {id}: {events:#?}"))
}

/// Whether the broker counts crashes or the workers do.
#[test]
fn a_run_after_a_crash_is_reported_as_the_second_attempt() {
    everywhere(async |place| {
        let (app, _) = reporting(&place);
        let mut events = app.watch_events(EventReader::Live).await.expect("a stream");
        let job = app.send(greet.with("world").queue(&place.queue)).await.expect("sent");
        let other = place.app();
        let subscription =
            Subscription { queues: vec![place.queue.clone()], prefetch: 1, name: "test".into() };
        let mut consumer =
            other.broker().await.expect("a broker").consume(subscription).await.expect("a consumer");
        let mut lost = consumer.next().await.expect("the message");
        lost.settlement.begin();
        drop(lost);
        consumer.control().cancel().await;
        let running = Running::start(app.clone(), SharedState::default());
        let is_its = |event: &Event, kind| event.kind == kind && event.uuid.as_deref() == Some(job.id());
        let read = read_to(&mut events, |event| is_its(event, EventKind::TaskSucceeded)).await;
        for kind in [EventKind::TaskReceived, EventKind::TaskStarted, EventKind::TaskSucceeded] {
            // Without a count of the broker, a worker receives it twice: the first one counts the crash.
            let last = read.iter().rfind(|event| is_its(event, kind.clone()));
            assert_eq!(last.and_then(|event| event.attempt), Some(2), "{}: {read:#?}", place.name);
        }
        running.stop().await;
    });
}

#[test]
fn the_life_of_a_call_is_reported() {
    everywhere(async |place| {
        let (app, name) = reporting(&place);
        let mut events = app.watch_events(EventReader::Live).await.expect("a stream");
        let running = Running::start(app.clone(), SharedState::default());
        let job = app.send(greet.with("world").queue(&place.queue)).await.expect("sent");
        job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        let is_of = |event: &Event, id: &str| event.uuid.as_deref() == Some(id);
        let mut read =
            read_to(&mut events, |event| event.kind == EventKind::TaskSucceeded && is_of(event, job.id()))
                .await;
        let was_sent = |event: &Event| event.kind == EventKind::TaskSent && is_of(event, job.id());
        if !read.iter().any(was_sent) {
            read.extend(read_to(&mut events, was_sent).await);
        }
        assert_eq!(
            kinds(&read, job.id()),
            ["task-received", "task-started", "task-succeeded"],
            "{}",
            place.name
        );
        let sent = find(&read, job.id(), &EventKind::TaskSent);
        assert!(sent.hostname.starts_with("gen"), "{sent:?}");
        assert_eq!(sent.queue.as_deref(), Some(place.queue.as_str()));
        let received = find(&read, job.id(), &EventKind::TaskReceived);
        assert_eq!((received.hostname.as_str(), received.pid), (name.as_str(), std::process::id()));
        assert_eq!(received.name.as_deref(), Some("events.greet"));
        assert_eq!((received.args.as_deref(), received.kwargs.as_deref()), (Some("('world',)"), Some("{}")));
        assert_eq!((received.retries, received.attempt), (Some(0), Some(1)));
        assert_eq!(received.root_id.as_deref(), Some(job.id()));
        let started = find(&read, job.id(), &EventKind::TaskStarted);
        assert!(started.wait.is_some_and(|wait| (0.0..30.0).contains(&wait)), "{started:?}");
        let succeeded = find(&read, job.id(), &EventKind::TaskSucceeded);
        assert_eq!(succeeded.result.as_deref(), Some("'hello world'"));
        assert!(succeeded.runtime.is_some_and(|runtime| runtime < 10.0), "{succeeded:?}");
        assert!(started.clock > received.clock && succeeded.clock > started.clock);
        // The worker announces itself concurrently with its work.
        let is_online = |event: &Event| event.kind == EventKind::WorkerOnline && event.hostname == name;
        if !read.iter().any(is_online) {
            read.extend(read_to(&mut events, is_online).await);
        }
        let online = read.iter().find(|event| is_online(event));
        assert_eq!(online.and_then(|online| online.freq), Some(2.0), "{read:#?}");

        let job = app.send(fail.with("no luck").queue(&place.queue)).await.expect("sent");
        job.get().timeout(Duration::from_secs(20)).await.expect_err("a failure");
        let read =
            read_to(&mut events, |event| event.kind == EventKind::DeadLettered && is_of(event, job.id()))
                .await;
        let expected = [
            "task-received",
            "task-started",
            "task-retried",
            "task-received",
            "task-started",
            "task-failed",
            "mq-dead-lettered",
        ];
        assert_eq!(kinds(&read, job.id()), expected, "{}", place.name);
        let retried = find(&read, job.id(), &EventKind::TaskRetried);
        assert!(retried.exception.as_deref().is_some_and(|text| text.contains("no luck")), "{retried:?}");
        let failed = find(&read, job.id(), &EventKind::TaskFailed);
        assert_eq!((failed.reason.as_deref(), failed.attempt), (Some("retries-exhausted"), Some(2)));
        let dead = find(&read, job.id(), &EventKind::DeadLettered);
        assert_eq!(dead.queue.as_deref(), Some(place.dead().as_str()));

        // Progress is reported even without a result backend; of several reports in quick succession, only the last.
        let job = app.send(climb.with().queue(&place.queue)).await.expect("sent");
        let read =
            read_to(&mut events, |event| event.kind == EventKind::TaskSucceeded && is_of(event, job.id()))
                .await;
        let is_said = |event: &&Event| event.kind == EventKind::Reported && is_of(event, job.id());
        let said: Vec<_> = read.iter().filter(is_said).collect();
        let [progress, resting] = said[..] else { panic!("{}: two reports: {said:?}", place.name) };
        assert_eq!(
            (progress.state.as_deref(), progress.current, progress.total),
            (Some("PROGRESS"), Some(3), Some(12))
        );
        assert_eq!(progress.description.as_deref(), Some("the S3CRET path"));
        assert_eq!(
            (resting.state.as_deref(), resting.description.as_deref()),
            (Some("RESTING"), Some("['hut']"))
        );

        running.stop().await;
        let offline = |event: &Event| event.kind == EventKind::WorkerOffline && event.hostname == name;
        let read = read_to(&mut events, offline).await;
        assert_eq!(read.iter().find(|event| offline(event)).and_then(|event| event.processed), Some(4));
        events.close().await;
    });
}

#[test]
fn events_of_calls_are_turned_on_and_off_while_a_worker_runs() {
    everywhere(async |place| {
        let name = format!("{}@test", unique("events"));
        let app = place.app_with(|config| config.worker.hostname = Some(name.clone()));
        let mut events = app.watch_events(EventReader::Live).await.expect("a stream");
        let running = Running::start(app.clone(), SharedState::default());
        let control = Control::new(app.broker().await.expect("a broker")).to([&name]);
        let control = control.timeout(Duration::from_secs(10));
        let ask = async |method: &str| -> Value {
            let replies = control.ask(method, Map::new()).await.expect("replies");
            replies.first().map(|reply| reply.value.clone()).unwrap_or_default()
        };
        eventually("the worker answers", || async { ask("ping").await == json!({"ok": "pong"}) }).await;
        let silent = app.send(greet.with("silence").queue(&place.queue)).await.expect("sent");
        silent.get().timeout(Duration::from_secs(20)).await.expect("a result");
        assert_eq!(ask("enable_events").await, json!({"ok": "task events enabled"}));
        assert_eq!(ask("enable_events").await, json!({"ok": "task events already enabled"}));
        let told = app.send(greet.with("world").queue(&place.queue)).await.expect("sent");
        let done = |event: &Event| {
            event.kind == EventKind::TaskSucceeded && event.uuid.as_deref() == Some(told.id())
        };
        let read = read_to(&mut events, done).await;
        assert_eq!(kinds(&read, silent.id()), [""; 0], "{}", place.name);
        assert_eq!(ask("disable_events").await, json!({"ok": "task events disabled"}));
        assert_eq!(ask("disable_events").await, json!({"ok": "task events already disabled"}));
        running.stop().await;
        events.close().await;
    });
}

#[test]
fn a_durable_reader_gets_what_was_reported_while_it_was_away() {
    everywhere(async |place| {
        let (app, _) = reporting(&place);
        let reader = EventReader::Durable { name: unique("history"), bound: 10_000 };
        let events = app.watch_events(reader.clone()).await.expect("a stream");
        events.close().await;
        let running = Running::start(app.clone(), SharedState::default());
        let job = app.send(greet.with("world").queue(&place.queue)).await.expect("sent");
        job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        running.stop().await;
        let done =
            |event: &Event| event.kind == EventKind::TaskSucceeded && event.uuid.as_deref() == Some(job.id());
        let mut events = app.watch_events(reader).await.expect("a stream");
        let read = read_to(&mut events, done).await;
        assert_eq!(
            kinds(&read, job.id()),
            ["task-received", "task-started", "task-succeeded"],
            "{}",
            place.name
        );
        events.close().await;
    });
}

#[test]
fn arguments_and_results_are_hidden_on_request() {
    everywhere(async |place| {
        let (app, _) = reporting(&place);
        let app = place.app_with(|config| {
            config.clone_from(app.config());
            config.event_values = false;
        });
        let mut events = app.watch_events(EventReader::Live).await.expect("a stream");
        let running = Running::start(app.clone(), SharedState::default());
        let job = app.send(greet.with("S3CRET").queue(&place.queue)).await.expect("sent");
        let done =
            |event: &Event| event.kind == EventKind::TaskSucceeded && event.uuid.as_deref() == Some(job.id());
        let read = read_to(&mut events, done).await;
        let climbing = app.send(climb.with().queue(&place.queue)).await.expect("sent");
        let ended = |event: &Event| {
            event.kind == EventKind::TaskSucceeded && event.uuid.as_deref() == Some(climbing.id())
        };
        let said = read_to(&mut events, ended).await;
        let of_climb = said.iter().filter(|event| event.uuid.as_deref() == Some(climbing.id()));
        let text: String = of_climb.map(|event| serde_json::to_string(event).expect("JSON")).collect();
        assert!(text.contains("PROGRESS") && !text.contains("S3CRET"), "{}: {text}", place.name);
        let ours = read.iter().filter(|event| event.uuid.as_deref() == Some(job.id()));
        let text: String = ours.map(|event| serde_json::to_string(event).expect("JSON")).collect();
        assert!(text.contains("[hidden]") && !text.contains("S3CRET"), "{}: {text}", place.name);
        running.stop().await;
        events.close().await;
    });
}

/// A broker that never confirms events.
struct Unconfirmed(Arc<dyn Broker>);

impl Broker for Unconfirmed {
    support::forward!(0: capabilities declare consume get close);

    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>> {
        match publication.exchange.as_str() {
            EVENTS => Box::pin(std::future::pending()),
            _ => self.0.publish(publication),
        }
    }
}

support::forward_administration!(Unconfirmed, 0);

#[test]
fn events_that_the_broker_does_not_confirm_are_dropped_and_counted_without_blocking_work() {
    everywhere(async |place| {
        if place.name != "memory" {
            return;
        }
        let (app, name) = reporting(&place);
        let config = app.config().clone();
        let builder = App::builder().set(|own| *own = config).expect("a configuration");
        let app = builder.wrap_broker(|inner| Arc::new(Unconfirmed(inner))).build().expect("an application");
        let running = Running::start(app.clone(), SharedState::default());
        // At three events each, far more than the buffer can hold.
        let calls = (0..4000).map(|_| greet.with("world").queue(&place.queue).ignore_result());
        app.send_many(calls).await.expect("sent");
        let control = Control::new(app.broker().await.expect("a broker")).to([&name]);
        let stats = async || {
            let replies = control.ask("stats", Map::new()).await.expect("replies");
            replies.first().map(|reply| reply.value.clone()).unwrap_or_default()
        };
        eventually("all have run", async || {
            stats().await["total"]["events.greet"].as_u64().is_some_and(|ran| ran >= 4000)
        })
        .await;
        let dropped = stats().await["events_dropped"].as_u64();
        assert!(dropped.is_some_and(|dropped| dropped > 1000), "{dropped:?}");
        assert_eq!(running.stop().await.succeeded, 4000);
    });
}
