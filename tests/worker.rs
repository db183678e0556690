//! How a worker handles tasks and other messages, on every broker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, Properties};
use mq_worker::{App, Context, Permanence, Prefetch, SharedState, State, TaskError, task};
use serde_json::json;
use support::places::{Place, Running, eventually, everywhere};
use support::{Proxy, unique};
use tokio::sync::watch;

/// Lines that the tasks of a test write under a key.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Journal {
    fn write(&self, key: &str, line: impl Into<String>) {
        self.0.lock().expect("not poisoned").entry(key.into()).or_default().push(line.into());
    }

    fn read(&self, key: &str) -> Vec<String> {
        self.0.lock().expect("not poisoned").get(key).cloned().unwrap_or_default()
    }

    fn shared(&self) -> SharedState {
        let mut state = SharedState::default();
        state.insert(self.clone());
        state
    }
}

#[derive(Debug)]
struct NoSuchAddress;

impl std::fmt::Display for NoSuchAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no such address")
    }
}

impl std::error::Error for NoSuchAddress {}

impl Permanence for NoSuchAddress {
    fn is_permanent(&self) -> bool {
        true
    }
}

#[task]
async fn add(a: i64, b: i64) -> i64 {
    a + b
}

#[task]
fn add_blocking(a: i64, b: i64) -> Result<i64, std::num::TryFromIntError> {
    std::thread::sleep(Duration::from_millis(5));
    i64::try_from(i128::from(a) + i128::from(b))
}

#[task(max_retries = 3, backoff = "5ms..20ms")]
async fn flaky(ctx: &Context, key: String, failures: u32) -> Result<u32, TaskError> {
    ctx.state::<Journal>().write(&key, format!("{} {}", ctx.id(), ctx.retries()));
    if ctx.retries() < failures { Err(TaskError::failed("not yet")) } else { Ok(ctx.retries()) }
}

#[task(max_retries = 3, backoff = "5ms..20ms")]
async fn refuse(ctx: &Context, key: String) -> Result<(), NoSuchAddress> {
    ctx.state::<Journal>().write(&key, "ran");
    Err(NoSuchAddress)
}

#[task(max_retries = 1, backoff = "5ms..10ms")]
async fn explode(ctx: &Context, key: String) {
    ctx.state::<Journal>().write(&key, "ran");
    panic!("boom {key}");
}

#[task(max_retries = 0, time_limit = "50ms")]
async fn sleepy() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[task(max_retries = 0, time_limit = "50ms")]
fn stubborn(ctx: &Context, key: String) {
    // A blocking task cannot be stopped from outside, but it is notified.
    while !ctx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    ctx.state::<Journal>().write(&key, "told to stop");
}

#[task]
async fn note(ctx: &Context, key: String, line: String) {
    ctx.state::<Journal>().write(&key, line);
}

#[task(name = "worker.once", ack = "early", max_retries = 0)]
async fn once(ctx: &Context, key: String) {
    ctx.state::<Journal>().write(&key, "began");
    std::future::pending::<()>().await;
}

#[task(name = "worker.patient")]
async fn patient(ctx: &Context, key: String) -> Result<(), TaskError> {
    ctx.state::<Journal>().write(&key, "began");
    ctx.cancelled().await;
    Err(TaskError::failed("stopped in the middle"))
}

#[task(name = "worker.brief")]
async fn brief(ctx: &Context, key: String) {
    ctx.state::<Journal>().write(&key, "began");
    tokio::time::sleep(Duration::from_millis(300)).await;
    ctx.state::<Journal>().write(&key, "ended");
}

#[task]
async fn parent(ctx: &Context, key: String) -> Result<String, TaskError> {
    let app = ctx.state::<App>();
    let child = app.send(note.with(&key, "from the child").queue(ctx.queue()).header("x-test", 1)).await?;
    Ok(child.id().to_owned())
}

async fn ready(app: &App, queue: &str) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
    queues.first().map_or(0, |queue| queue.ready)
}

/// Takes the only dead letter and returns its headers.
async fn dead_letter(app: &App, place: &Place) -> Headers {
    eventually("a dead letter is there", async || ready(app, &place.dead()).await == 1).await;
    let delivery = place.letter(app).await;
    let headers = delivery.message.headers.clone();
    delivery.ack();
    headers
}

async fn publish_raw(app: &App, place: &Place, message: Message) {
    let publication = Publication {
        exchange: String::new(),
        routing_key: place.queue.clone(),
        message,
        delay: None,
        mandatory: true,
    };
    app.broker().await.expect("a broker").publish(publication).await.expect("published");
}

/// Creates the queue and its dead-letter queue before any worker, by sending to it.
async fn prepared(place: &Place) -> (App, Journal) {
    let app = place.app();
    let job = app.send(add.with(0, 0).queue(&place.queue).ignore_result()).await;
    job.unwrap_or_else(|error| panic!("cannot prepare {}: {error:#}", place.name));
    // Remove the message, so that only the test's own messages count.
    app.broker().await.expect("a broker").purge(&place.queue).await.expect("purged");
    (app, Journal::default())
}

#[test]
fn results_come_back_typed() {
    everywhere(async |place| {
        let app = place.app();
        let running = Running::start(app.clone(), SharedState::default());
        let job = app.send(add.with(2, 40).queue(&place.queue)).await.expect("sent");
        assert_eq!(job.get().timeout(Duration::from_secs(20)).await.expect("a result"), 42, "{}", place.name);
        assert_eq!(job.state().await.expect("a state"), State::Success);
        let blocking = app.send(add_blocking.with(2, 40).queue(&place.queue)).await.expect("sent");
        assert_eq!(blocking.get().timeout(Duration::from_secs(20)).await.expect("a result"), 42);
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed), (2, 0), "{}", place.name);
    });
}

#[test]
fn a_result_that_is_late_is_a_timeout_and_says_so() {
    everywhere(async |place| {
        let app = place.app();
        let job = app.send(add.with(1, 1).queue(&place.queue)).await.expect("sent");
        let error = job.get().timeout(Duration::from_millis(50)).await.expect_err("nobody works");
        assert!(error.is_timeout() && error.to_string().contains(job.id()), "{error}");
    });
}

#[test]
fn a_failing_task_is_retried_under_its_id_until_it_succeeds() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("flaky");
        let job = app.send(flaky.with(&key, 2).queue(&place.queue)).await.expect("sent");
        assert_eq!(job.get().timeout(Duration::from_secs(20)).await.expect("a result"), 2, "{}", place.name);
        let id = job.id();
        assert_eq!(journal.read(&key), [format!("{id} 0"), format!("{id} 1"), format!("{id} 2")]);
        let summary = running.stop().await;
        assert_eq!((summary.retried, summary.failed), (2, 0));
    });
}

#[test]
fn a_task_that_never_succeeds_goes_to_the_dead_letters_with_its_reason() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("hopeless");
        let job = app.send(flaky.with(&key, 99).queue(&place.queue)).await.expect("sent");
        let error = job.get().timeout(Duration::from_secs(20)).await.expect_err("it fails");
        let failure = error.task_failure().expect("it says how the task failed");
        assert_eq!(failure.message, "not yet", "{}", place.name);
        assert_eq!(journal.read(&key).len(), 4, "one run and three retries");
        let headers = dead_letter(&app, &place).await;
        assert_eq!(headers.get_str("mq-dead-reason"), Some("retries-exhausted"));
        assert_eq!(headers.get_str("mq-dead-queue"), Some(place.queue.as_str()));
        assert_eq!((headers.task(), headers.id()), (Some("flaky"), Some(job.id())));
        running.stop().await;
    });
}

#[test]
fn a_permanent_error_is_not_retried() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("refused");
        let job = app.send(refuse.with(&key).queue(&place.queue)).await.expect("sent");
        let error = job.get().timeout(Duration::from_secs(20)).await.expect_err("it fails");
        assert_eq!(error.task_failure().expect("a failure").kind, "NoSuchAddress", "{}", place.name);
        assert_eq!(journal.read(&key), ["ran"]);
        assert_eq!(dead_letter(&app, &place).await.get_str("mq-dead-reason"), Some("rejected"));
        running.stop().await;
    });
}

#[test]
fn a_panic_is_a_failure_and_the_worker_goes_on() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("panic");
        let job = app.send(explode.with(&key).queue(&place.queue)).await.expect("sent");
        let error = job.get().timeout(Duration::from_secs(20)).await.expect_err("it fails");
        assert_eq!(error.task_failure().expect("a failure").message, format!("boom {key}"), "{}", place.name);
        assert_eq!(journal.read(&key).len(), 2);
        let next = app.send(add.with(1, 1).queue(&place.queue)).await.expect("sent");
        assert_eq!(next.get().timeout(Duration::from_secs(20)).await.expect("a result"), 2);
        running.stop().await;
    });
}

#[test]
fn a_time_limit_ends_an_async_task_and_tells_a_plain_one() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("stubborn");
        let slow = app.send(sleepy.with().queue(&place.queue)).await.expect("sent");
        let plain = app.send(stubborn.with(&key).queue(&place.queue)).await.expect("sent");
        for job in [slow, plain] {
            let error = job.get().timeout(Duration::from_secs(20)).await.expect_err("too slow");
            assert_eq!(error.task_failure().expect("a failure").kind, "TimeLimitExceeded", "{}", place.name);
        }
        eventually("the plain function heard of it", async || journal.read(&key) == ["told to stop"]).await;
        running.stop().await;
    });
}

#[test]
fn a_countdown_is_kept_and_holds_no_place() {
    everywhere(async |place| {
        let app = place.app_with(|config| config.worker.concurrency = 1);
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("later");
        // Each runs no earlier than it is due, by the machine's clock; how much later depends on the load.
        let wait = Duration::from_millis(1200);
        let begun = Instant::now();
        let later =
            app.send(note.with(&key, "later").queue(&place.queue).countdown(wait)).await.expect("sent");
        later.get().timeout(Duration::from_secs(60)).await.expect("it ran");
        assert!(begun.elapsed() >= wait, "{}: too early, after {:?}", place.name, begun.elapsed());
        // A call that waits longer than this test must not delay others.
        let hour = Duration::from_secs(3600);
        app.send(note.with(&key, "never").queue(&place.queue).countdown(hour)).await.expect("sent");
        let now = app.send(note.with(&key, "now").queue(&place.queue)).await.expect("sent");
        now.get().timeout(Duration::from_secs(60)).await.expect("the one that waits holds up the other");
        assert_eq!(journal.read(&key), ["later", "now"], "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn an_expired_task_is_revoked() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let key = unique("expired");
        let signature = note.with(&key, "ran").queue(&place.queue).expires(Duration::from_millis(1));
        let job = app.send(signature).await.expect("sent");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let running = Running::start(app.clone(), journal.shared());
        let error = job.get().timeout(Duration::from_secs(20)).await.expect_err("too late");
        assert!(error.is_revoked(), "{}: {error}", place.name);
        assert_eq!(journal.read(&key), Vec::<String>::new());
        assert_eq!(running.stop().await.revoked, 1);
    });
}

#[test]
fn a_child_knows_its_parent() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let mut state = journal.shared();
        state.insert(app.clone());
        let key = unique("family");
        let running = Running::start(app.clone(), state);
        let job = app.send(parent.with(&key).queue(&place.queue)).await.expect("sent");
        job.get().timeout(Duration::from_secs(20)).await.expect("a result");
        eventually("the child ran", async || journal.read(&key) == ["from the child"]).await;
        running.stop().await;
    });
}

#[test]
fn messages_that_cannot_run_are_kept_with_the_reason() {
    let celery = |name: &str, id: &str, body: &str| Message {
        properties: Properties { content_type: Some("application/json".into()), ..Properties::default() },
        headers: Headers::for_task(name, id),
        body: body.to_owned().into(),
    };
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let mut pickled = celery("add", "id", "[[1,2],{},{}]");
        pickled.properties.content_type = Some("application/x-python-serialize".into());
        let mut bad_eta = celery("add", "id", "[[1,2],{},{}]");
        bad_eta.headers.set("eta", "tomorrow");
        let mut squeezed = celery("add", "id", "not zlib");
        squeezed.headers.set("compression", "application/x-gzip");
        let cases = [
            (celery("no_such_task", "id", "[[],{},{}]"), "unknown-task", "no_such_task"),
            (celery("add", "id", "[[1],{},{}]"), "bad-arguments", "`b` is missing"),
            (celery("add", "id", "[[1,2,3],{},{}]"), "bad-arguments", "3 arguments given"),
            (celery("add", "id", "[[1,\"two\"],{},{}]"), "bad-arguments", "argument `b` does not fit"),
            (celery("add", "id", "[[1],{\"c\":2},{}]"), "bad-arguments", "missing"),
            (celery("add", "id", "{not json"), "malformed", "[args, kwargs, embed]"),
            (celery("add", "id", "[[1,2],{}]"), "malformed", "[args, kwargs, embed]"),
            (celery("add", "id", &format!("[[{}{}],{{}},{{}}]", "[".repeat(5000), "]".repeat(5000))), "", ""),
            (celery("add", "id", "[[1,2],{},{\"chord\":{\"task\":\"x\"}}]"), "malformed", "chord"),
            (pickled, "malformed", "application/x-python-serialize"),
            (bad_eta, "malformed", "tomorrow"),
            (squeezed, "malformed", "compressed"),
            (Message { body: "hello".into(), ..Message::default() }, "unknown-task", "names no task"),
            (Message::default(), "unknown-task", "names no task"),
        ];
        for (message, reason, text) in cases {
            let body = message.body.clone();
            publish_raw(&app, &place, message).await;
            let headers = dead_letter(&app, &place).await;
            let (got, error) = (headers.get_str("mq-dead-reason"), headers.get_str("mq-dead-error"));
            assert!(got.is_some_and(|got| got.contains(reason)), "{}: {got:?} {body:?}", place.name);
            assert!(error.is_some_and(|error| error.contains(text)), "{}: {error:?} {body:?}", place.name);
        }
        running.stop().await;
    });
}

#[test]
fn a_body_over_the_limit_is_refused_on_both_sides() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let small = place.app_with(|config| config.max_message_size = 1000);
        let running = Running::start(small.clone(), journal.shared());
        let key = unique("huge");
        let long = "x".repeat(2000);
        let error = small.send(note.with(&key, &long).queue(&place.queue)).await.expect_err("too large");
        assert!(error.is_too_large() && error.to_string().contains("max_message_size"), "{error}");
        app.send(note.with(&key, &long).queue(&place.queue)).await.expect("sent");
        let headers = dead_letter(&app, &place).await;
        assert!(
            headers.get_str("mq-dead-error").is_some_and(|error| error.contains("limit")),
            "{}",
            place.name
        );
        assert_eq!(journal.read(&key), Vec::<String>::new());
        running.stop().await;
    });
}

#[test]
fn a_warm_stop_finishes_what_runs_and_hands_the_rest_back() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let narrow = place.app_with(|config| {
            config.worker.concurrency = 1;
            config.worker.prefetch = Prefetch::Fixed(10);
        });
        let key = unique("warm");
        let running = Running::start(narrow.clone(), journal.shared());
        for _ in 0..5 {
            app.send(brief.with(&key).queue(&place.queue).ignore_result()).await.expect("sent");
        }
        eventually("the first one runs", async || journal.read(&key) == ["began"]).await;
        let summary = running.stop().await;
        assert_eq!(journal.read(&key), ["began", "ended"], "{}", place.name);
        assert_eq!(summary.failed, 0);
        // The others are redelivered without having spent an attempt.
        let running = Running::start(place.app(), journal.shared());
        eventually("all five ran", async || journal.read(&key).len() == 10).await;
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed, summary.retried), (4, 0, 0), "{}", place.name);
    });
}

/// RabbitMQ is late to confirm that the consumer is cancelled.
#[test]
fn a_warm_stop_repeats_nothing_and_spends_nothing_however_late_the_broker_answers() {
    everywhere(async |place| {
        let url = place.url();
        let Some((user, host)) = url.split_once('@').filter(|_| place.name.starts_with("rabbitmq")) else {
            return;
        };
        let (server, vhost) = host.split_once('/').expect("a virtual host");
        let proxy = Proxy::start(server);
        let (app, journal) = prepared(&place).await;
        let narrow = place.app_with(|config| {
            config.broker_url = format!("{user}@{}/{vhost}", proxy.address()).parse().expect("a URL");
            config.worker.concurrency = 1;
            config.worker.prefetch = Prefetch::Fixed(3);
        });
        let key = unique("late");
        let running = Running::start(narrow.clone(), journal.shared());
        for _ in 0..3 {
            app.send(brief.with(&key).queue(&place.queue).ignore_result()).await.expect("sent");
        }
        eventually("the first one runs", async || journal.read(&key) == ["began"]).await;
        proxy.delay((60, 31), Duration::from_secs(7), 9);
        let summary = running.stop().await;
        assert_eq!((journal.read(&key).len(), summary.succeeded), (2, 1), "{}", place.name);
        narrow.close().await;
        assert!(proxy.delayed() > 0, "{}", place.name);
        eventually("the others are back", async || ready(&app, &place.queue).await == 2).await;
        for _ in 0..2 {
            let broker = app.broker().await.expect("a broker");
            let back = broker.get(&place.queue).await.expect("an answer").expect("a message");
            assert_eq!((back.redelivered, back.message.headers.crashes()), (false, 0), "{}", place.name);
            back.ack();
        }
    });
}

#[test]
fn a_cold_stop_cancels_and_hands_back() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let key = unique("cold");
        let running = Running::start(app.clone(), journal.shared());
        app.send(patient.with(&key).queue(&place.queue).ignore_result()).await.expect("sent");
        eventually("it runs", async || journal.read(&key) == ["began"]).await;
        let begun = Instant::now();
        running.handle().stop_now();
        let summary = running.ended().await;
        assert!(begun.elapsed() < Duration::from_secs(4), "a cold stop does not wait");
        assert_eq!(summary.requeued, 1, "{}", place.name);
        eventually("it is back", async || ready(&app, &place.queue).await == 1).await;
    });
}

#[test]
fn an_early_ack_runs_at_most_once() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let key = unique("once");
        let running = Running::start(app.clone(), journal.shared());
        app.send(once.with(&key).queue(&place.queue).ignore_result()).await.expect("sent");
        eventually("it runs", async || journal.read(&key) == ["began"]).await;
        running.handle().stop_now();
        running.ended().await;
        assert_eq!(ready(&app, &place.queue).await, 0, "{}", place.name);
    });
}

#[test]
fn a_chain_of_celery_runs_to_its_end_and_a_failure_reaches_every_later_step() {
    everywhere(async |place| {
        let (app, journal) = prepared(&place).await;
        let running = Running::start(app.clone(), journal.shared());
        let step = |args: serde_json::Value, id: &str| {
            json!({"task": "add", "args": args, "kwargs": {}, "subtask_type": null, "immutable": false,
                   "options": {"task_id": id, "queue": place.queue, "reply_to": null}})
        };
        let (first, last) = (unique("first"), unique("last"));
        let chain = |args: serde_json::Value, middle: &str, last: &str| json!([args, {}, {"chain": [step(json!([100]), last), step(json!([10]), middle)]}]);
        // The caller expects the results of the later steps, so that results by message can be routed.
        let backend = app.backend().await.expect("a backend");
        for (id, args) in [(&first, json!([1, 2])), (&last, json!([1]))] {
            let (middle, end) = (format!("{id}-middle"), format!("{id}-end"));
            let mut reply_to = None;
            for id in [&middle, &end] {
                reply_to = backend.expect(id).await.expect("an answer");
            }
            let message = Message {
                properties: Properties {
                    content_type: Some("application/json".into()),
                    reply_to,
                    ..Properties::default()
                },
                headers: Headers::for_task("add", id),
                body: serde_json::to_vec(&chain(args, &middle, &end)).expect("JSON").into(),
            };
            publish_raw(&app, &place, message).await;
        }
        let wait = Duration::from_secs(20);
        let good = app.result::<i64>(format!("{first}-end")).await.expect("a handle");
        assert_eq!(good.get().timeout(wait).await.expect("a result"), 113, "{}", place.name);
        if place.name.starts_with("rabbitmq") {
            // The results of failed steps go to the `reply_to` of each step, which is null here.
            return;
        }
        let bad = app.result::<i64>(format!("{last}-end")).await.expect("a handle");
        let error = bad.get().timeout(wait).await.expect_err("the first step fails");
        assert_eq!(error.task_failure().expect("a failure").kind, "TypeError");
        running.stop().await;
    });
}

#[test]
fn what_one_worker_cannot_run_yet_another_runs() {
    everywhere(async |place| {
        let (app, _) = prepared(&place).await;
        let journal = Journal::default();
        let busy = place.app_with(|config| {
            config.worker.concurrency = 2;
            config.worker.grace = Duration::ZERO;
        });
        let busy = Running::start(busy, journal.shared());
        for _ in 0..2 {
            app.send(patient.with("busy").queue(&place.queue).ignore_result()).await.expect("sent");
        }
        eventually("it has as much as it can run", async || journal.read("busy").len() == 2).await;
        // So far it is the only worker that could take these.
        for line in 0..10 {
            let call = note.with("noted", line.to_string()).queue(&place.queue).ignore_result();
            app.send(call).await.expect("sent");
        }
        let free = Running::start(place.app_with(|config| config.worker.concurrency = 1), journal.shared());
        eventually("none of them waits for the busy one", async || journal.read("noted").len() == 10).await;
        free.stop().await;
        assert_eq!(busy.stop().await.requeued, 2, "{}", place.name);
    });
}

#[test]
fn the_faster_worker_gets_more() {
    everywhere(async |place| {
        let (app, _) = prepared(&place).await;
        let signatures = (0..ALL).map(|_| paced.with().queue(&place.queue).ignore_result());
        app.send_many(signatures).await.expect("sent");
        let done = watch::Sender::new(Done::default());
        let workers = [true, false].map(|is_fast| {
            let mut state = SharedState::default();
            state.insert(Pace { is_fast, done: done.clone() });
            Running::start(place.app_with(|config| config.worker.concurrency = 1), state)
        });
        eventually("all are done", async || done.borrow().all() == ALL).await;
        for worker in workers {
            worker.stop().await;
        }
        let Done { fast, slow } = *done.borrow();
        assert!(fast > 3 * slow, "{}: fast {fast}, slow {slow}", place.name);
    });
}

/// The number of tasks for the two workers of the test above.
const ALL: u32 = 60;

/// The number of tasks that each has done.
#[derive(Clone, Copy, Default)]
struct Done {
    fast: u32,
    slow: u32,
}

impl Done {
    fn all(self) -> u32 {
        self.fast + self.slow
    }
}

struct Pace {
    is_fast: bool,
    done: watch::Sender<Done>,
}

/// The slow worker takes as long for one as the fast one for ten, or until there is nothing else left to do.
#[task]
async fn paced(ctx: &Context) {
    let pace = ctx.state::<Pace>();
    if pace.is_fast {
        return pace.done.send_modify(|done| done.fast += 1);
    }
    let mut done = pace.done.subscribe();
    let begun = done.borrow().fast;
    let enough = |done: &Done| done.fast >= begun + 10 || done.all() + 1 == ALL;
    done.wait_for(enough).await.expect("never closed");
    pace.done.send_modify(|done| done.slow += 1);
}
