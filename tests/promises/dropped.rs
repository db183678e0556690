//! Calls that the broker itself drops: they expire, or their queue is full.

use std::time::Duration;

use mq_worker::message::headers::names;
use mq_worker::{App, Queue, State, task};
use support::journal::Journal;
use support::places::{Place, Running, eventually, everywhere};

#[task]
async fn kept_waiting(number: u32) -> u32 {
    number
}

/// Returns an application whose queue is configured by the test.
fn app(place: &Place, change: impl Fn(&mut Queue)) -> App {
    place.app_with(|config| {
        let mut queue = Queue::new(&place.queue);
        change(&mut queue);
        config.topology.queues.push(queue);
    })
}

async fn letters(app: &App, place: &Place) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let found = broker.queues(&[place.dead()]).await.expect("an answer");
    found.first().map_or(0, |queue| queue.ready)
}

/// Returns reason and error of the oldest dead letter.
async fn letter(app: &App, place: &Place) -> (Option<String>, Option<String>) {
    let delivery = place.letter(app).await;
    let header = |name| delivery.message.headers.get_str(name).map(ToOwned::to_owned);
    let read = (header(names::DEAD_REASON), header(names::DEAD_ERROR));
    delivery.requeue();
    read
}

#[test]
fn a_caller_learns_that_its_call_expired_in_the_queue() {
    everywhere(async |place| {
        let app = app(&place, |queue| queue.message_ttl = Some(Duration::from_millis(20)));
        let call = |number| kept_waiting.with(number).queue(&place.queue);
        let one = app.send(call(1)).await.expect("sent");
        let two = app.send(call(2)).await.expect("sent");
        eventually("both expire", async || letters(&app, &place).await == 2).await;
        assert_eq!(letter(&app, &place).await, (Some("expired".into()), None), "{}", place.name);

        let running = Running::start(app.clone(), Journal::default().shared());
        for job in [&one, &two] {
            let error = job.get().timeout(Duration::from_secs(60)).await.expect_err("it did not run");
            assert!(error.is_revoked() && error.to_string().contains("expired"), "{}: {error}", place.name);
        }
        running.stop().await;
        // The dead letters are kept all the same.
        eventually("the letters are back", async || letters(&app, &place).await == 2).await;
        let (reason, error) = letter(&app, &place).await;
        assert_eq!(reason.as_deref(), Some("expired"), "{}", place.name);
        assert!(error.is_some_and(|error| error.contains("expired")), "{}", place.name);
    });
}

#[test]
fn a_caller_learns_that_its_call_was_dropped_from_a_full_queue() {
    everywhere(async |place| {
        let app = app(&place, |queue| queue.max_length = Some(1));
        let call = |number| kept_waiting.with(number).queue(&place.queue);
        let first = app.send(call(1)).await.expect("sent");
        let second = app.send(call(2)).await.expect("sent");
        eventually("the first makes room", async || letters(&app, &place).await == 1).await;
        assert_eq!(letter(&app, &place).await, (Some("maxlen".into()), None), "{}", place.name);
        let running = Running::start(app.clone(), Journal::default().shared());
        let error = first.get().timeout(Duration::from_secs(60)).await.expect_err("it did not run");
        assert!(error.is_revoked() && error.to_string().contains("full"), "{}: {error}", place.name);
        assert_eq!(second.get().timeout(Duration::from_secs(60)).await.expect("it runs"), 2);
        running.stop().await;
    });
}

#[test]
fn expired_calls_do_not_accumulate() {
    everywhere(async |place| {
        // The behaviour is the same on all brokers; elsewhere each letter costs milliseconds.
        if place.name != "memory" {
            return;
        }
        let app = app(&place, |queue| queue.message_ttl = Some(Duration::from_millis(1)));
        let mut last = None;
        for number in 0..1010 {
            last = Some(app.send(kept_waiting.with(number).queue(&place.queue)).await.expect("sent"));
        }
        eventually("all expire", async || letters(&app, &place).await == 1010).await;
        let running = Running::start(app.clone(), Journal::default().shared());
        let last = last.expect("a call");
        eventually("the last is reported", async || last.state().await.expect("a state") == State::Revoked)
            .await;
        eventually("a thousand are left", async || letters(&app, &place).await == 1000).await;
        running.stop().await;
    });
}
