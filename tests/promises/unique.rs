//! Unique tasks: no second call is queued while one waits or runs.

use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::{App, AsyncResult, Context, State, TaskError, task};
use serde::{Deserialize, Serialize};
use support::journal::Journal;
use support::places::{Place, Running, eventually, everywhere};
use support::unique;

#[derive(Clone, Serialize, Deserialize)]
struct Customer {
    id: String,
    name: String,
}

#[task(unique_for = "1h", unique_by = "customer.id")]
async fn bill(ctx: &Context, customer: Customer) {
    let journal = ctx.state::<Journal>();
    journal.write("began", &customer.name);
    while journal.read("go on").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[task(unique_for = "1h")]
async fn reindex(_shard: String, _full: bool) {}

#[task(unique_for = "1h", max_retries = 1, backoff = "1s..1s")]
async fn unlucky(ctx: &Context, _key: String) -> Result<(), TaskError> {
    ctx.state::<Journal>().write("tried", ctx.retries().to_string());
    Err(TaskError::failed("always"))
}

#[task(unique_for = "2s")]
async fn brief(_key: String) {}

fn customer(id: &str, name: &str) -> Customer {
    Customer { id: id.into(), name: name.into() }
}

async fn waiting(app: &App, queue: &str) -> u64 {
    let broker = app.broker().await.expect("a broker");
    broker.queues(&[queue.to_owned()]).await.expect("an answer").first().map_or(0, |queue| queue.ready)
}

async fn send(app: &App, place: &Place, customer: Customer) -> AsyncResult<()> {
    app.send(bill.with(customer).queue(&place.queue).ignore_result()).await.expect("sent, or known")
}

#[test]
fn a_second_call_is_kept_out_while_one_waits_or_runs() {
    everywhere(async |place| {
        let (app, other) = (place.app(), place.app());
        let id = unique("customer");
        let first = send(&app, &place, customer(&id, "first")).await;
        assert!(!first.is_duplicate());
        let second = send(&other, &place, customer(&id, "second, from elsewhere")).await;
        assert!(second.is_duplicate(), "{}: it waits", place.name);
        assert_eq!(second.id(), first.id(), "{}: the handle is to the one that waits", place.name);
        assert!(!send(&app, &place, customer(&unique("customer"), "another")).await.is_duplicate());
        assert_eq!(waiting(&app, &place.queue).await, 2, "{}", place.name);

        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        eventually("both run", async || journal.read("began").len() == 2).await;
        assert!(send(&app, &place, customer(&id, "third")).await.is_duplicate(), "{}: it runs", place.name);
        journal.write("go on", "");
        eventually("it may come again", async || {
            !send(&app, &place, customer(&id, "fourth")).await.is_duplicate()
        })
        .await;
        eventually("it runs again", async || journal.read("began").len() == 3).await;
        running.stop().await;
        assert_eq!(journal.sorted("began"), ["another", "first", "fourth"], "{}", place.name);
    });
}

#[test]
fn of_many_callers_one_gets_through() {
    everywhere(async |place| {
        let apps = [place.app(), place.app()];
        let shard = unique("shard");
        let calls = (0..30).map(|index| {
            let call = reindex.with(shard.as_str(), true).queue(&place.queue).ignore_result();
            apps[index % 2].send(call)
        });
        let jobs: Vec<_> = join_all(calls).await.into_iter().map(|job| job.expect("an answer")).collect();
        let sent: Vec<_> = jobs.iter().filter(|job| !job.is_duplicate()).collect();
        assert_eq!(sent.len(), 1, "{}", place.name);
        assert!(jobs.iter().all(|job| job.id() == sent[0].id()), "{}", place.name);
        assert_eq!(waiting(&apps[0], &place.queue).await, 1, "{}", place.name);
        // Without `unique_by` all arguments count.
        let other = reindex.with(shard.as_str(), false).queue(&place.queue).ignore_result();
        assert!(!apps[0].send(other).await.expect("sent").is_duplicate(), "{}", place.name);
    });
}

#[test]
fn a_lock_is_held_through_retries_and_released_at_the_end() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let key = unique("key");
        let call = || unlucky.with(key.as_str()).queue(&place.queue).ignore_result();
        let first = app.send(call()).await.expect("sent");
        eventually("it failed once", async || journal.read("tried").len() == 1).await;
        assert!(app.send(call()).await.expect("known").is_duplicate(), "{}: its retry waits", place.name);
        eventually("it failed for good", async || waiting(&app, &place.dead()).await == 1).await;
        eventually("the next is let in", async || !app.send(call()).await.expect("sent").is_duplicate())
            .await;
        assert!(!first.is_duplicate());
        running.stop().await;
    });
}

#[test]
fn the_same_id_may_be_sent_again() {
    everywhere(async |place| {
        let app = place.app();
        let (shard, id) = (unique("shard"), unique("id"));
        for _ in 0..2 {
            let call = reindex.with(shard.as_str(), true).queue(&place.queue).task_id(&id).ignore_result();
            assert!(!app.send(call).await.expect("sent").is_duplicate(), "{}", place.name);
        }
    });
}

#[test]
fn an_abandoned_lock_expires() {
    everywhere(async |place| {
        let app = place.app();
        let key = unique("key");
        let call = || brief.with(key.as_str()).queue(&place.queue).ignore_result();
        assert!(!app.send(call()).await.expect("sent").is_duplicate());
        // Taking the message from the queue by hand does not release the lock.
        let broker = app.broker().await.expect("a broker");
        broker.get(&place.queue).await.expect("an answer").expect("the call").ack();
        assert!(app.send(call()).await.expect("known").is_duplicate(), "{}", place.name);
        eventually("it opens", async || !app.send(call()).await.expect("sent").is_duplicate()).await;
    });
}

#[test]
fn a_call_that_cannot_be_sent_holds_no_lock() {
    everywhere(async |place| {
        let app = place.app();
        let shard = unique("shard");
        let nowhere = reindex.with(shard.as_str(), true).exchange("amq.direct").routing_key("nobody");
        app.send(nowhere.ignore_result()).await.expect_err("nobody takes it");
        let call = reindex.with(shard.as_str(), true).queue(&place.queue).ignore_result();
        assert!(!app.send(call).await.expect("sent").is_duplicate(), "{}", place.name);
    });
}

#[test]
fn the_handle_of_a_duplicate_knows_the_result() {
    everywhere(async |place| {
        let app = place.app();
        let shard = unique("shard");
        let call = || reindex.with(shard.as_str(), true).queue(&place.queue);
        let first = app.send(call()).await.expect("sent");
        let second = app.send(call()).await.expect("known");
        assert!(second.is_duplicate());
        drop(second);
        let running = Running::start(app.clone(), Journal::default().shared());
        first.get().timeout(Duration::from_secs(60)).await.expect("a result: nobody has taken it away");
        assert_eq!(first.state().await.expect("a state"), State::Success, "{}", place.name);
        running.stop().await;
    });
}

/// A revoked call will not run, so it must not hold its lock until it is due.
#[test]
fn a_call_that_was_revoked_lets_the_next_one_in() {
    everywhere(async |place| {
        let app = place.app();
        for terminate in [false, true] {
            let shard = unique("shard");
            let call = || reindex.with(shard.as_str(), true).queue(&place.queue).ignore_result();
            let waits = call().countdown(Duration::from_secs(3600));
            let first = app.send(waits).await.expect("sent");
            assert!(app.send(call()).await.expect("known").is_duplicate(), "{}", place.name);
            let revoked = if terminate { first.terminate().await } else { first.revoke().await };
            revoked.expect("revoked");
            let next = app.send(call()).await.expect("sent");
            assert!(!next.is_duplicate(), "{}: swallowed as the duplicate of {}", place.name, first.id());
            // That call holds the lock now.
            let third = app.send(call()).await.expect("known");
            assert_eq!(third.id(), next.id(), "{}", place.name);
        }
    });
}

/// A running call may take its time after it is revoked, and holds its lock until it has ended.
#[test]
fn a_revoked_call_holds_its_lock_while_it_runs() {
    everywhere(async |place| {
        let app = place.app();
        let id = unique("customer");
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        let first = send(&app, &place, customer(&id, "first")).await;
        eventually("it runs", async || journal.read("began").len() == 1).await;
        first.revoke().await.expect("revoked");
        assert!(send(&app, &place, customer(&id, "second")).await.is_duplicate(), "{}: it runs", place.name);
        journal.write("go on", "");
        eventually("the next is let in", async || {
            !send(&app, &place, customer(&id, "third")).await.is_duplicate()
        })
        .await;
        running.stop().await;
    });
}

/// Brokers that keep messages in a table know which calls were purged. On RabbitMQ the lock expires.
#[test]
fn a_call_that_was_purged_lets_the_next_one_in() {
    everywhere(async |place| {
        if place.name.starts_with("rabbitmq") {
            return;
        }
        let app = place.app();
        let shard = unique("shard");
        let call = || reindex.with(shard.as_str(), true).queue(&place.queue).ignore_result();
        for waits in [Duration::ZERO, Duration::from_secs(3600)] {
            app.send(call().countdown(waits)).await.expect("sent");
            app.broker().await.expect("a broker").purge(&place.queue).await.expect("purged");
        }
        assert!(!app.send(call()).await.expect("sent").is_duplicate(), "{}", place.name);
    });
}
