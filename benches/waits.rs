//! How long one caller waits: each operation alone, after a pause and directly after the one before.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin waits                                          # SQLite
//! $ MQ_BROKER_URL=amqp://localhost MQ_RESULT_BACKEND=rpc:// cargo run --release -p mq-worker-benches --bin waits
//! ```
//!
//! A wake-up that is lost delays one caller; among many callers, as other benches have, the next one makes up for it. `N`
//! operations are measured (100 by default); medians and 90th percentiles are printed, in microseconds.
#![allow(clippy::print_stdout)]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mq_worker::{App, Config, Context, SharedState, Signature, Task, TaskError, Worker, task};
use tokio::sync::Notify;

/// Longer than any timer of what is measured.
const PAUSE: Duration = Duration::from_millis(130);

/// Notifies of each start.
#[derive(Clone, Default)]
struct Started(Arc<Mutex<Option<Instant>>>, Arc<Notify>);

impl Started {
    fn now(&self) {
        *self.0.lock().expect("no panic") = Some(Instant::now());
        self.1.notify_one();
    }

    async fn at(&self) -> Instant {
        self.1.notified().await;
        self.0.lock().expect("no panic").take().expect("it started")
    }
}

#[task(name = "bench.ignored", queue = "bench.waits", ignore_result)]
async fn ignored(ctx: &Context, n: u64) {
    std::hint::black_box(n);
    ctx.state::<Started>().now();
}

#[task(name = "bench.kept", queue = "bench.waits")]
async fn kept(n: u64) -> u64 {
    n
}

#[task(name = "bench.retried", queue = "bench.waits", max_retries = 1, ignore_result)]
async fn retried(ctx: &Context, n: u64) -> Result<(), TaskError> {
    if ctx.retries() == 0 {
        return Err(TaskError::retry_in(Duration::ZERO, format!("the first run of {n}")));
    }
    ctx.state::<Started>().now();
    Ok(())
}

#[tokio::main]
async fn main() {
    let n = std::env::var("N").ok().and_then(|text| text.parse().ok()).unwrap_or(100_u64);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut config = Config::load().expect("a good configuration");
    if config.broker_url.scheme() != "amqp" {
        let file = directory.path().join("bench.db");
        config.broker_url = format!("sqlite:{}", file.display()).parse().expect("a URL");
        config.result_backend.get_or_insert_with(|| config.broker_url.clone());
    }
    let app = App::new(config).expect("an application");
    let started = Started::default();
    let mut state = SharedState::default();
    state.insert(started.clone());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    app.send(ignored.with(0)).await.expect("sent");
    started.at().await;
    for pause in [PAUSE, Duration::ZERO] {
        println!(
            "{} µs: median and 90th percentile, a pause of {pause:?} before each",
            app.config().broker_url
        );
        report("sent", n, pause, async |id| {
            let begun = Instant::now();
            app.send(ignored.with(id)).await.expect("sent");
            let sent = begun.elapsed();
            started.at().await;
            sent
        })
        .await;
        report("started", n, pause, async |id| start(&app, &started, ignored.with(id)).await).await;
        report("retry started", n, pause, async |id| start(&app, &started, retried.with(id)).await).await;
        report("result received", n, pause, async |id| {
            let begun = Instant::now();
            let call = app.send(kept.with(id)).await.expect("sent");
            assert_eq!(call.get().await.expect("a result"), id);
            begun.elapsed()
        })
        .await;
    }
    let begun = Instant::now();
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    println!("  {:<18}{:>9}", "worker stopped", begun.elapsed().as_micros());
    let begun = Instant::now();
    app.close().await;
    println!("  {:<18}{:>9}", "closed", begun.elapsed().as_micros());
}

/// Sends a call and waits until it has notified of its start.
async fn start<T: Task>(app: &App, started: &Started, call: Signature<T>) -> Duration {
    let begun = Instant::now();
    let (at, sent) = tokio::join!(started.at(), app.send(call));
    sent.expect("sent");
    at - begun
}

async fn report(what: &str, n: u64, pause: Duration, measure: impl AsyncFn(u64) -> Duration) {
    let mut times = Vec::new();
    for id in 0..n {
        tokio::time::sleep(pause).await;
        times.push(measure(id).await);
    }
    times.sort_unstable();
    println!(
        "  {what:<18}{:>9}{:>9}",
        times[times.len() / 2].as_micros(),
        times[times.len() * 9 / 10].as_micros()
    );
}
