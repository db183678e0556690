//! Late replies of the broker: a pending reply is a state, and a late one leaves nothing behind.

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mq_worker::ConnectOptions;
use support::proxy::Method;
use tokio::time::timeout;

use super::fixture::{Detour, Fixture, SOON, id, next, options, to, until, url};

const GET_OK: Method = (60, 71);
const CONSUME_OK: Method = (60, 21);
const CANCEL_OK: Method = (60, 31);

/// Longer than we ever waited for a reply.
const LATE: Duration = Duration::from_secs(7);
/// The limit for a test that waits for late replies.
const LONG: Duration = Duration::from_secs(60);

impl Fixture {
    async fn consumers(&self, queue: &str) -> u64 {
        let found = self.broker.queues(&[queue.to_owned()]).await.expect("an answer");
        found.first().map_or(0, |queue| queue.consumers)
    }
}

/// The broker delivers nothing more but has not confirmed the cancel: what succeeds meanwhile must be acked.
#[tokio::test]
async fn a_success_during_a_pending_cancel_does_not_run_again() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let (t, direct) = (Fixture::alone(&proxy.url).await, Fixture::alone(&url).await);
    let queue = t.queue("q", |_| {}).await;
    for n in 0..2 {
        t.send(&queue, &n.to_string()).await.expect("taken");
    }
    let mut consumer = t.consume(&queue, 2).await;
    let (done, given_back) = (next(&mut consumer).await, next(&mut consumer).await);
    proxy.delay(CANCEL_OK, LATE, 1);
    let control = consumer.control();
    let cancel = async {
        control.cancel().await;
        assert!(timeout(SOON, consumer.next()).await.expect("the stream ends").is_none());
        control.flush().await;
        given_back.requeue();
    };
    let work = async {
        until("the cancellation is on its way", async || proxy.delayed() == 1).await;
        done.ack();
    };
    tokio::join!(cancel, work);
    until("it is back", async || direct.ready(&queue).await == 1).await;
    let left = direct.broker.get(&queue).await.expect("an answer").expect("a message");
    assert_eq!(id(&left), "1");
    left.ack();
    direct.end().await;
    t.end().await;
}

/// The broker starts the consumer too late; that one consumer must be used.
#[tokio::test]
async fn a_consumer_that_is_late_after_a_reconnect_is_the_only_one() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let (t, direct) = (Fixture::alone(&proxy.url).await, Fixture::alone(&url).await);
    let queue = t.queue("q", |_| {}).await;
    let mut consumer = t.consume(&queue, 1).await;
    proxy.delay(CONSUME_OK, LATE, 1);
    proxy.cut();
    for n in 0..4 {
        direct.send(&queue, &n.to_string()).await.expect("taken");
        let delivery = next(&mut consumer).await;
        assert_eq!((id(&delivery), delivery.redelivered), (n.to_string(), false));
        delivery.ack();
    }
    assert_eq!((proxy.delayed(), direct.consumers(&queue).await), (1, 1));
    direct.end().await;
    t.end().await;
}

/// The caller has given up, but the broker still starts the consumer.
#[tokio::test]
async fn a_consumer_whose_caller_gave_up_is_cancelled() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let impatient = ConnectOptions { timeout: Duration::from_secs(2), ..options() };
    let (t, direct) = (Fixture::with(&proxy.url, impatient).await, Fixture::alone(&url).await);
    let queue = t.queue("q", |_| {}).await;
    direct.send(&queue, "0").await.expect("taken");
    proxy.delay(CONSUME_OK, Duration::from_secs(4), 1);
    let subscription =
        mq_worker::broker::Subscription { queues: vec![queue.clone()], prefetch: 1, name: "late".into() };
    let error = t.broker.consume(subscription).await.map(drop).expect_err("it is late");
    assert!(error.is_timeout() && error.to_string().contains(&queue), "{error}");
    assert_eq!(proxy.delayed(), 1);
    until("it is taken back", async || direct.consumers(&queue).await == 0).await;
    direct.expect_ready(&queue, 1).await;
    direct.end().await;
    t.end().await;
}

/// A reply with a message that arrives after the timeout.
#[tokio::test]
async fn a_message_that_comes_too_late_goes_back() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let impatient = ConnectOptions { timeout: Duration::from_secs(2), ..options() };
    let (t, direct) = (Fixture::with(&proxy.url, impatient).await, Fixture::alone(&url).await);
    let queue = t.queue("q", |_| {}).await;
    direct.send(&queue, "0").await.expect("taken");
    proxy.delay(GET_OK, Duration::from_secs(4), 1);
    let error = t.broker.get(&queue).await.map(drop).expect_err("it is late");
    assert!(error.is_timeout(), "{error}");
    until("it is back", async || direct.ready(&queue).await == 1).await;
    t.broker.get(&queue).await.expect("an answer").expect("a message").ack();
    direct.end().await;
    t.end().await;
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Start,
    Reconnect,
    Stop,
}

/// Every reply, late at every moment: nothing is lost, run again, or left at the broker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_replies_of_any_kind_lose_nothing_and_leave_nothing_behind() {
    let Some(url) = url() else { return };
    let methods = [(20, 11), (20, 41), (50, 11), (60, 11), CONSUME_OK, CANCEL_OK, GET_OK, (85, 11), (10, 51)];
    let moments = [Moment::Start, Moment::Reconnect, Moment::Stop];
    let lives = methods.iter().flat_map(|method| moments.map(|moment| live(&url, *method, moment)));
    timeout(LONG * 2, join_all(lives)).await.expect("all end");
}

async fn live(url: &str, method: Method, now: Moment) {
    let proxy = Detour::start(url);
    let late = |moment| {
        if moment == now {
            proxy.delay(method, LATE, 1);
        }
    };
    late(Moment::Start);
    let patient = ConnectOptions { timeout: Duration::from_secs(20), ..options() };
    let (t, direct) = (Fixture::with(&proxy.url, patient).await, Fixture::alone(url).await);
    let case = format!("{method:?} {now:?}");
    let queue = t.queue("q", |_| {}).await;
    for name in ["a", "b", "c"] {
        t.send(&queue, name).await.expect("taken");
    }
    let a = t.broker.get(&queue).await.expect("an answer").expect("a message");
    assert_eq!(id(&a), "a", "{case}");
    a.ack();
    let mut consumer = t.consume(&queue, 1).await;
    let b = next(&mut consumer).await;
    assert_eq!(id(&b), "b", "{case}");
    let unknown = Cell::new(false);
    if now == Moment::Reconnect {
        late(now);
        proxy.cut();
        until("published", async || {
            let published = t.broker.publish(to(&queue, "d")).await;
            // The cut may come after the message but before its confirm.
            unknown.set(unknown.get() || published.as_ref().is_err_and(|error| error.unknown_id().is_some()));
            published.is_ok()
        })
        .await;
    }
    b.ack();
    let mut names = vec![];
    while names.last().is_none_or(|last| now == Moment::Reconnect && last != "d") {
        let delivery = timeout(LONG, consumer.next()).await.expect("in time").expect("the stream goes on");
        assert!(!delivery.redelivered, "{case}");
        names.push(id(&delivery));
        if now != Moment::Stop {
            delivery.ack();
            continue;
        }
        late(now);
        let control = consumer.control();
        tokio::join!(control.cancel(), async { delivery.ack() });
        control.flush().await;
    }
    assert_eq!(names[0], "c", "{case}");
    timeout(LONG, t.broker.close()).await.expect("it closes");
    let left = async || (direct.ready(&queue).await, direct.consumers(&queue).await);
    let until = Instant::now() + SOON;
    loop {
        match left().await {
            (0, 0) => break,
            (1, 0) if unknown.get() => {
                let copy = direct.broker.get(&queue).await.expect("an answer").expect("the first of two");
                assert_eq!(id(&copy), "d", "{case}");
                copy.ack();
            }
            left => assert!(Instant::now() < until, "{case}: {left:?} are left, ready and consumers"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(direct.broker.get(&queue).await.expect("an answer").is_none(), "{case}");
    direct.broker.delete_queue(&queue).await.expect("deleted");
    direct.end().await;
}
