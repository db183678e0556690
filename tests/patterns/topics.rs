//! Events: every subscriber gets a copy, in a durable queue.

use mq_worker::{Context, Emitted, TaskError, Topic, task};
use serde::{Deserialize, Serialize};
use support::journal::Journal;
use support::places::{Place, Running, consumed, eventually, everywhere};

use super::{app_with_tasks, route, waiting};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
}

/// The word in the middle is the country.
const ORDER_PAID: Topic<Order> = Topic::new("order.*.paid");

#[task(topic = ORDER_PAID)]
fn event_reserve(ctx: &Context, order: Order) {
    ctx.state::<Journal>().write("reserve", format!("{} {}", order.id, ctx.routing_key()));
}

#[task(topic = "order.#")]
fn event_audit(ctx: &Context, order: Order) {
    ctx.state::<Journal>().write("audit", format!("{} {}", order.id, ctx.routing_key()));
}

/// Fails once for each event.
#[task(topic = ["order.eu.*", "order.*.paid"], max_retries = 2, backoff = "1ms..5ms")]
fn event_flaky(ctx: &Context, order: Order) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("flaky", format!("{} {} {}", order.id, ctx.id(), ctx.retries()));
    if ctx.retries() == 0 { Err(TaskError::failed("not yet")) } else { Ok(()) }
}

/// Never succeeds.
#[task(topic = "order.eu.*", max_retries = 1, backoff = "1ms..5ms")]
fn event_hopeless(ctx: &Context, order: Order) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("hopeless", order.id.to_string());
    Err(TaskError::failed("never"))
}

#[test]
fn each_subscribed_queue_gets_one_copy() {
    everywhere(async |place| {
        let other = format!("{}-audit", place.queue);
        let journal = Journal::default();
        let app = app_with_tasks(&place, &["event_reserve"], |config| {
            config.routes.push(route("event_audit", &other));
            config.worker.queues.push(other.clone());
        });
        // Two workers on the same queues share the copies instead of getting one each.
        let workers = [(); 2].map(|()| Running::start(app.clone(), journal.shared()));
        consumed(&app, &place.queue, 2).await;
        for id in 0..10 {
            let emitted = app.emit(ORDER_PAID.at("eu"), &Order { id }).await.expect("emitted");
            assert_eq!(emitted, Emitted::Queued, "{}", place.name);
        }
        assert_eq!(app.emit("order.sent", &Order { id: 99 }).await.expect("emitted"), Emitted::Queued);
        eventually("all ran", async || {
            journal.read("reserve").len() >= 10 && journal.read("audit").len() >= 11
        })
        .await;
        let mut expected: Vec<String> = (0..10).map(|id| format!("{id} order.eu.paid")).collect();
        for worker in workers {
            worker.stop().await;
        }
        assert_eq!(journal.sorted("reserve"), expected, "{}", place.name);
        expected.push("99 order.sent".into());
        assert_eq!(journal.sorted("audit"), expected, "{}", place.name);
    });
}

#[test]
fn two_subscriptions_in_one_queue_run_both_each_with_its_own_retries() {
    everywhere(async |place| {
        let tasks = ["event_reserve", "event_flaky", "event_hopeless"];
        let app = app_with_tasks(&place, &tasks, |_| {});
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        for id in 0..5 {
            let emitted = app.emit(ORDER_PAID.at("eu"), &Order { id }).await.expect("emitted");
            assert_eq!(emitted, Emitted::Queued);
        }
        eventually("the hopeless ones are dead-lettered", async || {
            waiting(&app, &place.dead()).await == Some(5)
        })
        .await;
        eventually("the others ran", async || {
            journal.read("reserve").len() == 5 && journal.read("flaky").len() == 10
        })
        .await;
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed, summary.retried), (10, 5, 10), "{}", place.name);
        assert_eq!(journal.sorted("hopeless"), ["0", "0", "1", "1", "2", "2", "3", "3", "4", "4"]);
        // A retry is the same call: it keeps its id, which is unique.
        let flaky = journal.sorted("flaky");
        for pair in flaky.chunks(2) {
            assert_eq!(pair[0].strip_suffix('0'), pair[1].strip_suffix('1'), "{}: {flaky:?}", place.name);
        }
    });
}

#[test]
fn a_worker_that_stops_between_two_subscriptions_loses_neither() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["event_reserve", "event_audit"], |config| {
            config.worker.concurrency = 2;
        });
        let journal = Journal::default();
        // Subscribes and stops.
        subscribe(&place, &app, &journal).await;
        const EVENTS: u64 = 40;
        for id in 0..EVENTS {
            let _ = app.emit(ORDER_PAID.at("eu"), &Order { id }).await.expect("emitted");
        }
        // Cold shutdowns at random moments: while splitting, running and settling.
        for _ in 0..6 {
            let before = journal.read("reserve").len();
            let running = Running::start(app.clone(), journal.shared());
            eventually("something happened", async || {
                journal.read("reserve").len() > before || done(&journal, EVENTS)
            })
            .await;
            running.handle().stop_now();
            running.ended().await;
        }
        let running = Running::start(app.clone(), journal.shared());
        eventually("all ran", async || done(&journal, EVENTS)).await;
        running.stop().await;
    });
}

/// Returns true if both subscribers have seen every event at least once.
fn done(journal: &Journal, events: u64) -> bool {
    ["reserve", "audit"].iter().all(|key| {
        let mut seen = journal.sorted(key);
        seen.dedup();
        seen.len() as u64 == events
    })
}

async fn subscribe(place: &Place, app: &mq_worker::App, journal: &Journal) {
    let running = Running::start(app.clone(), journal.shared());
    consumed(app, &place.queue, 1).await;
    running.stop().await;
}

#[test]
fn a_subscription_outlives_its_worker() {
    everywhere(async |place| {
        let app = app_with_tasks(&place, &["event_reserve"], |_| {});
        let journal = Journal::default();
        assert_eq!(
            app.emit(ORDER_PAID.at("eu"), &Order { id: 1 }).await.expect("emitted"),
            Emitted::Unrouted,
            "{}: nobody has ever subscribed",
            place.name
        );
        subscribe(&place, &app, &journal).await;
        for id in 2..5 {
            let emitted = app.emit(ORDER_PAID.at("eu"), &Order { id }).await.expect("emitted");
            assert_eq!(emitted, Emitted::Queued, "{}: nobody works, but the queue is there", place.name);
        }
        assert_eq!(
            app.emit("order.eu.sent", &Order { id: 5 }).await.expect("emitted"),
            Emitted::Unrouted,
            "{}: the subscription is to paid orders",
            place.name
        );
        let running = Running::start(app.clone(), journal.shared());
        eventually("all ran", async || journal.read("reserve").len() == 3).await;
        running.stop().await;
        assert_eq!(journal.sorted("reserve"), ["2 order.eu.paid", "3 order.eu.paid", "4 order.eu.paid"]);
    });
}
