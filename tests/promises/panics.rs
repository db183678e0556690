//! User code that panics in unexpected places: each panic is an ordinary failure of its task.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mq_worker::broker::Subscription;
use mq_worker::{App, AsyncResult, Context, Signature, Task, TaskError, task};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize, Serializer};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};

/// Panics when dropped, also as the payload of a panic, but not while another panic unwinds.
pub(super) struct Bomb(pub(super) &'static str);

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::panic_any(Bomb(self.0));
        }
    }
}

/// Panics when it is deserialized.
#[derive(Serialize)]
struct Unreadable;

static READ: AtomicU32 = AtomicU32::new(0);

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        READ.fetch_add(1, Ordering::Relaxed);
        panic!("who would have thought of that")
    }
}

/// Panics when it is serialized as a result.
#[derive(Deserialize)]
struct Unwritable;

impl Serialize for Unwritable {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("nor of this")
    }
}

/// Serialized and deserialized like a number, but panics in `drop`, once.
#[derive(Serialize, Deserialize)]
struct Explosive(u32);

impl Drop for Explosive {
    fn drop(&mut self) {
        if self.0 > 0 && !std::thread::panicking() {
            panic!("dropped")
        }
    }
}

struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no words")
    }
}

#[task(max_retries = 1, backoff = "1ms..5ms")]
async fn reads_what_panics(_argument: Unreadable) {}

#[task(max_retries = 1, backoff = "1ms..5ms")]
async fn panics_with_a_bomb() {
    std::panic::panic_any(Bomb("payload"));
}

#[task(max_retries = 1, backoff = "1ms..5ms")]
fn panics_with_a_bomb_on_a_thread() {
    std::panic::panic_any(Bomb("payload"));
}

#[task(max_retries = 1, backoff = "1ms..5ms")]
async fn returns_what_cannot_be_written() -> Unwritable {
    Unwritable
}

#[task(max_retries = 1, backoff = "1ms..5ms")]
async fn returns_what_explodes() -> Explosive {
    Explosive(1)
}

#[task(max_retries = 1, backoff = "1ms..5ms")]
async fn fails_without_words() -> Result<(), Unspeakable> {
    Err(Unspeakable)
}

#[task(max_retries = 1, backoff = "1ms..5ms", time_limit = "50ms")]
async fn explodes_at_its_limit() {
    let _bomb = Bomb("held");
    std::future::pending::<()>().await;
}

#[task]
async fn goes_on() -> u32 {
    1
}

#[task(max_retries = 0)]
async fn explodes_when_stopped(ctx: &Context) {
    ctx.state::<Journal>().write("began", ctx.id());
    let _bomb = Bomb("held");
    std::future::pending::<()>().await;
}

async fn send<T: Task>(place: &Place, call: Signature<T>) -> AsyncResult<T::Output> {
    place.app().send(call.queue(&place.queue)).await.expect("sent")
}

async fn fails<T: Task>(place: &Place, call: Signature<T>, kind: &str) {
    let job = send(place, call).await;
    let error = job.get().timeout(Duration::from_secs(60)).await.map(drop).expect_err("it fails");
    let failure = error.task_failure().unwrap_or_else(|| panic!("{}: {} {error:#}", place.name, T::NAME));
    assert_eq!(failure.kind, kind, "{}: {}, {failure}", place.name, T::NAME);
}

#[test]
fn a_panic_anywhere_is_retried_with_backoff_and_dead_lettered() {
    everywhere(async |place| {
        let app = place.app();
        let running = Running::start(app.clone(), Journal::default().shared());
        let read = READ.load(Ordering::Relaxed);
        fails(&place, reads_what_panics.with(Unreadable), "Panic").await;
        assert_eq!(READ.load(Ordering::Relaxed) - read, 2, "{}: one retry", place.name);
        fails(&place, panics_with_a_bomb.with(), "Panic").await;
        fails(&place, panics_with_a_bomb_on_a_thread.with(), "Panic").await;
        fails(&place, returns_what_cannot_be_written.with(), "Panic").await;
        fails(&place, returns_what_explodes.with(), "Panic").await;
        fails(&place, fails_without_words.with(), "Panic").await;
        fails(&place, explodes_at_its_limit.with(), "TimeLimitExceeded").await;
        let job = send(&place, goes_on.with()).await;
        assert_eq!(job.get().timeout(Duration::from_secs(60)).await.expect("the worker lives"), 1);
        let summary = running.stop().await;
        assert_eq!((summary.failed, summary.retried, summary.succeeded), (7, 7, 1), "{}", place.name);
    });
}

/// A cold shutdown leaves no time for a retry: the panic is counted as a crash, not requeued without a trace.
#[test]
fn a_panic_during_a_cold_shutdown_counts_as_a_crash() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        send(&place, explodes_when_stopped.with().ignore_result()).await;
        eventually("it runs", async || !journal.read("began").is_empty()).await;
        running.handle().stop_now();
        running.ended().await;
        app.close().await;
        let broker = place.app().broker().await.expect("a broker");
        let subscription =
            Subscription { queues: vec![place.queue.clone()], prefetch: 1, name: "test".into() };
        let mut consumer = broker.consume(subscription).await.expect("a consumer");
        let back = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
        let back = back.expect("in time").expect("it is back");
        let counted = if broker.capabilities().counts_crashes {
            back.crashes == Some(1)
        } else {
            // The next worker counts the crash.
            back.redelivered
        };
        assert!(counted, "{}: {:?} {}", place.name, back.crashes, back.redelivered);
        back.ack();
        consumer.control().flush().await;
    });
}

/// A running delivery that is lost comes back after a delay, with a crash counted: it must not be lost again and again
/// forever.
#[test]
fn a_delivery_that_is_lost_comes_back_later_and_counted() {
    everywhere(async |place| {
        let app = place.app();
        send(&place, goes_on.with().ignore_result()).await;
        let broker = app.broker().await.expect("a broker");
        let subscription =
            Subscription { queues: vec![place.queue.clone()], prefetch: 1, name: "test".into() };
        let mut consumer = broker.consume(subscription).await.expect("a consumer");
        consumed(&place.app(), &place.queue, 1).await;
        for crashes in 0..3 {
            let begun = std::time::Instant::now();
            let next = tokio::time::timeout(Duration::from_secs(60), consumer.next()).await;
            let mut next = next.expect("in time").expect("it is there");
            assert_eq!(next.redelivered, crashes > 0, "{}", place.name);
            if broker.capabilities().counts_crashes {
                assert_eq!(next.crashes, Some(crashes), "{}", place.name);
            }
            if crashes > 0 {
                assert!(begun.elapsed() >= Duration::from_millis(500), "{}: at once", place.name);
            }
            next.settlement.begin();
        }
    });
}

#[task(max_retries = 0)]
async fn sends_with_a_panic(ctx: &Context) -> Result<(), TaskError> {
    ctx.state::<App>().send(keyed_by_a_panic.with("x")).await?;
    Ok(())
}

#[task(unique_for = "1h", unique_by = "panicking(key)")]
async fn keyed_by_a_panic(key: String) {
    let _ = key;
}

fn panicking(key: &str) -> String {
    panic!("no key for {key}")
}

/// The panic counts as the sender's own, and the failed send leaves nothing behind.
#[test]
fn a_panic_while_a_task_sends_is_a_failure_of_that_task() {
    everywhere(async |place| {
        let mut state = Journal::default().shared();
        state.insert(place.app());
        let running = Running::start(place.app(), state);
        fails(&place, sends_with_a_panic.with(), "Panic").await;
        running.stop().await;
    });
}
