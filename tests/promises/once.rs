//! Recorded successes: a redelivered message is acked, not run.

use std::time::Duration;

use mq_worker::broker::{Note, Register};
use mq_worker::{App, Context, task};
use support::journal::Journal;
use support::places::{Place, Running, eventually, everywhere};
use support::unique;

#[task(once_for = "1h")]
async fn charge(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

#[task]
async fn plain(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

async fn idle(app: &App, place: &Place) {
    eventually("the queue is empty", async || {
        let broker = app.broker().await.expect("a broker");
        let queues = broker.queues(std::slice::from_ref(&place.queue)).await.expect("an answer");
        queues.iter().all(|queue| queue.ready == 0 && queue.running.unwrap_or(0) == 0)
    })
    .await;
}

/// Takes the message of a call like a worker that dies while holding it: it comes back as redelivered.
async fn die_with_it(place: &Place, act: impl AsyncFnOnce(&App)) {
    let app = place.app();
    let broker = app.broker().await.expect("a broker");
    let delivery = broker.get(&place.queue).await.expect("an answer").expect("the message");
    act(&app).await;
    // It is unsettled when its connection closes.
    broker.close().await;
    drop(delivery);
}

#[test]
fn a_message_that_comes_again_after_its_success_is_not_run() {
    everywhere(async |place| {
        let app = place.app();
        let id = unique("charge");
        let call = charge.with("once").queue(&place.queue).task_id(&id).ignore_result();
        app.send(call).await.expect("sent");
        // The worker died between the note and the ack: all work is done, but the message is still there.
        die_with_it(&place, async |app| {
            let broker = app.broker().await.expect("a broker");
            let note = Note::new(&id, Duration::from_secs(3600));
            broker.note(Register::Done, &note).await.expect("noted");
        })
        .await;
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        app.send(plain.with("another").queue(&place.queue).ignore_result()).await.expect("sent");
        eventually("the other ran", async || journal.read("ran").len() == 1).await;
        idle(&app, &place).await;
        running.stop().await;
        assert_eq!(journal.read("ran"), ["another"], "{}", place.name);
    });
}

#[test]
fn a_message_that_comes_again_without_a_success_is_run_and_then_remembered() {
    everywhere(async |place| {
        let app = place.app();
        let id = unique("charge");
        let call = || charge.with("once").queue(&place.queue).task_id(&id).ignore_result();
        app.send(call()).await.expect("sent");
        die_with_it(&place, async |_| {}).await;
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        eventually("it runs", async || journal.read("ran") == ["once"]).await;
        running.stop().await;
        // Another message with its id, sent by a producer that did not get the first confirm; it is redelivered as well.
        app.send(call()).await.expect("sent");
        die_with_it(&place, async |_| {}).await;
        let running = Running::start(app.clone(), journal.shared());
        app.send(plain.with("another").queue(&place.queue).ignore_result()).await.expect("sent");
        eventually("the other ran", async || journal.read("ran").len() == 2).await;
        idle(&app, &place).await;
        running.stop().await;
        assert_eq!(journal.sorted("ran"), ["another", "once"], "{}", place.name);
    });
}

/// Senders choose ids: a success under an id says nothing about another call with the same id.
#[test]
fn another_call_under_the_id_of_a_success_is_run() {
    everywhere(async |place| {
        let app = place.app();
        let id = unique("charge");
        let call = |line: &str| charge.with(line).queue(&place.queue).task_id(&id).ignore_result();
        let journal = Journal::default();
        let running = Running::start(app.clone(), journal.shared());
        app.send(call("first")).await.expect("sent");
        eventually("it runs", async || journal.read("ran") == ["first"]).await;
        running.stop().await;
        app.send(call("second")).await.expect("sent");
        die_with_it(&place, async |_| {}).await;
        let running = Running::start(app.clone(), journal.shared());
        eventually("the second runs", async || journal.read("ran") == ["first", "second"]).await;
        running.stop().await;
    });
}
