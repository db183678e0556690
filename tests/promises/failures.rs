//! Tasks that have failed for good: the contents of their dead letters, and the failure hooks that run.

use std::time::Duration;

use mq_worker::broker::Publication;
use mq_worker::message::{Headers, Message, history};
use mq_worker::{App, Attempt, Context, FailedTask, TaskError, on_failure, task};
use support::journal::Journal;
use support::places::{Place, Running, eventually, everywhere};
use support::unique;

use super::panics::Bomb;

#[task(max_retries = 2, backoff = "1ms..5ms")]
async fn failing_differently(ctx: &Context, key: String) -> Result<(), TaskError> {
    Err(TaskError::failed(format!("{key} for the {}. time", ctx.retries() + 1)))
}

#[task(max_retries = 0)]
async fn failing_in_a_panic() {
    panic!("boom");
}

#[task(max_retries = 20, backoff = "1ms..2ms")]
async fn failing_often() -> Result<(), TaskError> {
    Err(TaskError::failed("é".repeat(100_000)))
}

fn journal_of(failed: &FailedTask) -> Option<std::sync::Arc<Journal>> {
    failed.context().try_state::<Journal>()
}

/// Records each failure.
#[on_failure]
async fn a_listener(failed: &FailedTask) -> Result<(), TaskError> {
    // The dead letter is stored before any hook runs.
    let app = failed.context().try_state::<App>().ok_or_else(|| TaskError::failed("nobody listens"))?;
    let letters = waiting(&app, &format!("{}.dead", failed.queue())).await;
    let Some(journal) = journal_of(failed) else { return Ok(()) };
    let attempts = failed.attempts().len();
    let (task, failure, reason) = (failed.task(), failed.failure(), failed.reason());
    journal.write("reported", format!("{task} {reason} {attempts} {letters}: {failure}"));
    Ok(())
}

/// A second hook, which panics.
#[on_failure]
fn b_clumsy_listener(failed: &FailedTask) {
    // Workers of other tests run this hook too.
    let Some(journal) = journal_of(failed) else { return };
    journal.write("clumsy", failed.id());
    std::panic::panic_any(Bomb("somebody has not thought of it"));
}

async fn waiting(app: &App, queue: &str) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
    queues.first().map_or(0, |queue| queue.ready)
}

/// Publishes a message with these headers and no arguments.
pub(super) async fn publish(app: &App, place: &Place, headers: Headers) {
    let publication = Publication {
        routing_key: place.queue.clone(),
        message: Message { headers, body: "[[],{},{}]".into(), ..Message::default() },
        mandatory: true,
        ..Publication::default()
    };
    app.broker().await.expect("a broker").publish(publication).await.expect("published");
}

fn worker(app: &App, journal: &Journal) -> Running {
    let mut state = journal.shared();
    state.insert(app.clone());
    Running::start(app.clone(), state)
}

/// Takes the only dead letter and returns its history.
async fn letter(app: &App, place: &Place) -> Vec<Attempt> {
    eventually("a dead letter is there", async || waiting(app, &place.dead()).await == 1).await;
    let delivery = place.letter(app).await;
    let attempts = history::read(&delivery.message.headers);
    delivery.ack();
    attempts
}

#[test]
fn the_error_of_each_attempt_travels_with_the_message() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = worker(&app, &journal);
        app.send(failing_differently.with("it failed").queue(&place.queue)).await.expect("sent");
        let attempts = letter(&app, &place).await;
        let read: Vec<(u32, &str)> = attempts.iter().map(|a| (a.attempt, a.error.as_str())).collect();
        let expected: Vec<(u32, String)> =
            (1..=3).map(|n| (n, format!("TaskError: it failed for the {n}. time"))).collect();
        let expected: Vec<(u32, &str)> = expected.iter().map(|(n, text)| (*n, text.as_str())).collect();
        assert_eq!(read, expected, "{}", place.name);
        assert!(attempts.is_sorted_by_key(|attempt| attempt.at.clone()), "{}: {attempts:?}", place.name);
        assert!(attempts.iter().all(|attempt| attempt.worker == app.worker_name()), "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn a_long_attempt_history_is_truncated() {
    everywhere(async |place| {
        let app = place.app();
        let running = worker(&app, &Journal::default());
        app.send(failing_often.with().queue(&place.queue)).await.expect("sent");
        let attempts = letter(&app, &place).await;
        let numbers: Vec<u32> = attempts.iter().map(|attempt| attempt.attempt).collect();
        assert_eq!(numbers, [1, 13, 14, 15, 16, 17, 18, 19, 20, 21], "{}", place.name);
        assert!(attempts.iter().all(|attempt| attempt.error.chars().count() <= 501), "{}", place.name);
        running.stop().await;
    });
}

#[test]
fn failure_hooks_run_for_each_dead_letter_and_cannot_break_anything() {
    everywhere(async |place| {
        let app = place.app();
        let journal = Journal::default();
        let running = worker(&app, &journal);
        let sent = app.send(failing_differently.with("no").queue(&place.queue)).await.expect("sent");
        eventually("it is reported", async || journal.read("clumsy").len() == 1).await;
        assert_eq!(journal.read("clumsy"), [sent.id()]);
        let reported = "failing_differently retries-exhausted 3 1: TaskError: no for the 3. time";
        assert_eq!(journal.read("reported"), [reported], "{}", place.name);
        // Also for a message that is not a call.
        let name = unique("nobody.knows");
        publish(&app, &place, Headers::for_task(&name, "id-1")).await;
        app.send(failing_in_a_panic.with().queue(&place.queue)).await.expect("sent");
        eventually("all are reported", async || journal.read("clumsy").len() == 3).await;
        eventually("all are dead-lettered", async || waiting(&app, &place.dead()).await == 3).await;
        let reported = journal.sorted("reported");
        assert!(reported[1].starts_with("failing_in_a_panic retries-exhausted 1"), "{reported:?}");
        assert!(reported[2].starts_with(&format!("{name} unknown-task 1")), "{reported:?}");
        // Nothing was redelivered, and the worker still works.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(running.stop().await.failed, 3, "{}", place.name);
    });
}
