//! Paused queues and tasks: what waits, what continues, and which workers obey.

mod restart;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mq_worker::app::{Pausable, Pause};
use mq_worker::{App, Context, Prefetch, task};
use support::journal::Journal;
use support::places::{Running, consumed, eventually, everywhere};
use tokio::sync::Semaphore;

/// A pause takes effect within this time; on a busy machine it needs slightly more.
const SOON: Duration = Duration::from_secs(3);

#[task]
async fn pausable(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

/// Its name is paused, also for other tests on the same broker.
#[task]
async fn pausable_by_name(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("ran", line);
}

#[task]
async fn pausable_neighbour(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("neighbour", line);
}

#[task]
async fn pausable_slow(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("begun", line.clone());
    let gate = Arc::clone(&ctx.state::<Arc<Semaphore>>());
    gate.acquire().await.expect("never closed").forget();
    ctx.state::<Journal>().write("ran", line);
}

async fn send(app: &App, queue: &str, line: &str) {
    app.send(pausable.with(line).queue(queue).ignore_result()).await.expect("sent");
}

async fn ready(app: &App, queue: &str) -> u64 {
    let broker = app.broker().await.expect("a broker");
    let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
    queues.first().map_or(0, |queue| queue.ready)
}

#[test]
fn a_paused_queue_keeps_its_messages_and_a_resumed_one_runs_them() {
    everywhere(|place| async move {
        let journal = Journal::default();
        let other = format!("{}-other", place.queue);
        let app = place.app_with(|config| config.worker.queues.push(other.clone()));
        let running = Running::start(app.clone(), journal.shared());
        consumed(&app, &place.queue, 1).await;
        let begun = Instant::now();
        app.pause(place.queue.as_str()).await.expect("paused");
        consumed(&app, &place.queue, 0).await;
        assert!(begun.elapsed() < SOON, "obeyed after {:?}", begun.elapsed());
        for line in ["one", "two"] {
            send(&app, &place.queue, line).await;
        }
        send(&app, &other, "neighbour").await;
        eventually("the other queue goes on", async || journal.read("ran") == ["neighbour"]).await;
        // A worker that starts later obeys the pause from the start.
        let later = place.app_with(|config| config.worker.queues.push(other.clone()));
        let second = Running::start(later.clone(), journal.shared());
        consumed(&app, &other, 2).await;
        eventually("both wait in the broker", async || ready(&app, &place.queue).await == 2).await;
        let paused = later.paused().await.expect("an answer");
        assert!(paused.contains(&Pause::queue(&place.queue)), "{paused:?}");
        let begun = Instant::now();
        later.resume(place.queue.as_str()).await.expect("resumed");
        eventually("they run", async || journal.sorted("ran") == ["neighbour", "one", "two"]).await;
        assert!(begun.elapsed() < SOON, "resumed after {:?}", begun.elapsed());
        assert!(!app.paused().await.expect("an answer").contains(&Pause::queue(&place.queue)));
        let summaries = [running.stop().await, second.stop().await];
        assert_eq!(summaries.iter().map(|summary| summary.succeeded).sum::<u64>(), 3, "{summaries:?}");
    });
}

#[test]
fn running_calls_finish_and_reserved_ones_are_requeued() {
    everywhere(|place| async move {
        let journal = Journal::default();
        let gate = Arc::new(Semaphore::new(0));
        let mut state = journal.shared();
        state.insert(Arc::clone(&gate));
        let app = place.app_with(|config| {
            config.worker.concurrency = 1;
            config.worker.prefetch = Prefetch::Fixed(3);
        });
        for line in ["runs", "b", "c", "d"] {
            app.send(pausable_slow.with(line).queue(&place.queue).ignore_result()).await.expect("sent");
        }
        let running = Running::start(app.clone(), state);
        eventually("one runs", async || journal.read("begun") == ["runs"]).await;
        app.pause(place.queue.as_str()).await.expect("paused");
        eventually("the others are back", async || ready(&app, &place.queue).await == 3).await;
        gate.add_permits(4);
        eventually("it ends", async || journal.read("ran") == ["runs"]).await;
        assert_eq!(ready(&app, &place.queue).await, 3);
        app.resume(place.queue.as_str()).await.expect("resumed");
        eventually("all ran", async || journal.sorted("ran") == ["b", "c", "d", "runs"]).await;
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed, summary.retried), (4, 0, 0));
    });
}

#[test]
fn a_paused_task_waits_and_its_neighbours_run() {
    everywhere(|place| async move {
        let journal = Journal::default();
        let app = place.app();
        app.pause(Pause::task("pausable_by_name").lasting(Duration::from_secs(300))).await.expect("paused");
        let running = Running::start(app.clone(), journal.shared());
        app.send(pausable_by_name.with("held").queue(&place.queue).ignore_result()).await.expect("sent");
        let neighbour = pausable_neighbour.with("runs").queue(&place.queue).ignore_result();
        app.send(neighbour).await.expect("sent");
        eventually("the neighbour runs", async || !journal.read("neighbour").is_empty()).await;
        // Longer than its first delay.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(journal.read("ran"), [] as [String; 0]);
        app.resume(Pausable::Task("pausable_by_name".into())).await.expect("resumed");
        eventually("it runs", async || journal.read("ran") == ["held"]).await;
        let summary = running.stop().await;
        assert_eq!((summary.succeeded, summary.failed, summary.retried), (2, 0, 0));
    });
}

#[test]
fn a_pause_ends_by_itself() {
    everywhere(|place| async move {
        let journal = Journal::default();
        let app = place.app();
        let pause = Pause::queue(&place.queue).lasting(Duration::from_secs(4));
        app.pause(pause).await.expect("paused");
        let begun = Instant::now();
        let running = Running::start(app.clone(), journal.shared());
        send(&app, &place.queue, "later").await;
        eventually("it runs", async || journal.read("ran") == ["later"]).await;
        let waited = begun.elapsed();
        assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(4) + SOON, "{waited:?}");
        running.stop().await;
    });
}

#[test]
fn invalid_pauses_are_refused() {
    everywhere(|place| async move {
        let app = place.app();
        let empty = app.pause("").await.expect_err("no name");
        assert!(empty.is_config(), "{empty:?}");
        let past = Pause::queue("q").until(chrono::Utc::now() - chrono::Duration::hours(1));
        let past = app.pause(past).await.expect_err("too late");
        assert!(past.is_config() && past.to_string().contains("in the past"), "{past}");
        app.resume("never paused").await.expect("no error");
    });
}
