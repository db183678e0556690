//! The measurements of mq-worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_worker::broker::Subscription;
use mq_worker::{App, Config, QueueKind, SharedState, Worker};

use crate::Failure;
use crate::measure::{Begun, Figures, latency as latency_of};
use crate::work::{Progress, QUEUE, User, noop};

/// The prefetch of every consumer here, and the raw client's.
pub(crate) const PREFETCH: u16 = 1000;

fn open(at: &str) -> Result<App, Failure> {
    let mut config = Config { broker_url: at.parse()?, ..Config::default() };
    if at.starts_with("amqp") {
        config.queue_kind = QueueKind::Quorum;
    }
    config.worker.concurrency = usize::from(PREFETCH);
    Ok(App::new(config)?)
}

/// Declares the queue, and empties it.
pub(crate) async fn prepare(at: &str) -> Result<Figures, Failure> {
    let app = open(at)?;
    // Sending a call declares what it needs.
    app.send(noop.with(User::new(0))).await?;
    let begun = Begun::now();
    app.broker().await?.purge(QUEUE).await?;
    app.close().await;
    begun.end(1)
}

/// Sends from several callers at once, each awaiting its own `.delay()` before the next.
pub(crate) async fn enqueue(at: &str, tasks: u64, callers: u64) -> Result<Figures, Failure> {
    let app = open(at)?;
    app.broker().await?;
    let next = Arc::new(AtomicU64::new(0));
    let begun = Begun::now();
    let callers = (0..callers)
        .map(|_| {
            let (app, next) = (app.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id >= tasks {
                        return Ok::<(), mq_worker::Error>(());
                    }
                    app.send(noop.with(User::new(id))).await?;
                }
            })
        })
        .collect::<Vec<_>>();
    for caller in callers {
        caller.await??;
    }
    let figures = begun.end(tasks)?;
    app.close().await;
    Ok(figures)
}

/// Drains with the broker alone.
pub(crate) async fn drain_broker(at: &str, tasks: u64) -> Result<Figures, Failure> {
    let app = open(at)?;
    let subscription = Subscription { queues: vec![QUEUE.into()], prefetch: PREFETCH, name: "bench".into() };
    let mut consumer = app.broker().await?.consume(subscription).await?;
    consumer.next().await.ok_or("the consumer ended")?.ack();
    let begun = Begun::now();
    for _ in 1..tasks {
        consumer.next().await.ok_or("the consumer ended")?.ack();
    }
    let figures = begun.end(tasks)?;
    // Not measured: the last acks get time to reach a quorum queue.
    consumer.control().flush().await;
    consumer.control().cancel().await;
    app.close().await;
    Ok(figures)
}

/// Drains with a worker.
pub(crate) async fn drain(at: &str, tasks: u64) -> Result<Figures, Failure> {
    let app = open(at)?;
    let progress = Progress::until(tasks);
    let worker = with(&app, &progress)?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let begun = progress.done().await;
    let figures = begun.end(tasks)?;
    handle.stop();
    running.await??;
    let left = app.broker().await?.queues(&[QUEUE.into()]).await?;
    if let Some(left) = left.iter().find(|queue| queue.ready > 0) {
        return Err(format!("{} tasks are left in the queue", left.ready).into());
    }
    app.close().await;
    Ok(figures)
}

/// Measures the times from the call of `.delay()` to the start of the task in an idle worker of the same process, and to its
/// return.
pub(crate) async fn latency(at: &str, tasks: u64) -> Result<Figures, Failure> {
    let app = open(at)?;
    let progress = Progress::of_starts();
    let worker = with(&app, &progress)?;
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let mut times = Vec::new();
    for id in 0..tasks {
        let begun = Instant::now();
        let send = async {
            app.send(noop.with(User::new(id))).await?;
            Ok::<_, Failure>(begun.elapsed())
        };
        let (started, sent) = tokio::join!(progress.started(), send);
        times.push((started - begun, sent?));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    handle.stop();
    running.await??;
    app.close().await;
    latency_of(times)
}

fn with(app: &App, progress: &Progress) -> Result<Worker, Failure> {
    let mut state = SharedState::default();
    state.insert(progress.clone());
    Ok(Worker::new(app.clone())?.with_state(state))
}
