//! How fast tasks are queued and run, compared with the raw client in one run.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin throughput                        # SQLite
//! $ MQ_BROKER_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin throughput
//! ```
//!
//! `N` messages per round and `ROUNDS` rounds can be set in the environment. The raw client and the framework take
//! turns, so that both run under the same conditions; medians are printed, and the ratio of medians.
#![allow(clippy::print_stdout)]

mod raw;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use mq_worker::{App, Config, Context, SharedState, Worker, task};
use serde::{Deserialize, Serialize};

/// What a sign-up would send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    id: u64,
    email: String,
    name: String,
}

impl User {
    fn new(id: u64) -> Self {
        Self { id, email: format!("user{id:06}@example.com"), name: "Ada".into() }
    }
}

/// Counts the tasks that ran, and notifies of each start.
#[derive(Clone, Default)]
struct Done {
    count: Arc<AtomicU64>,
    started: Arc<tokio::sync::Notify>,
}

#[task(queue = "bench", ignore_result)]
async fn noop(ctx: &Context, user: User) {
    let done = ctx.state::<Done>();
    std::hint::black_box(&user);
    done.count.fetch_add(1, Ordering::Relaxed);
    done.started.notify_one();
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let (n, rounds) = (number("N", 40_000), number("ROUNDS", 5));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut config = Config::load().expect("a good configuration");
    let amqp = config.broker_url.scheme().starts_with("amqp").then(|| config.broker_url.expose().to_owned());
    if amqp.is_none() {
        let file = directory.path().join("bench.db");
        config.broker_url = format!("sqlite:{}", file.display()).parse().expect("a URL");
    }
    config.worker.concurrency = number("CONCURRENCY", 1000) as usize;
    let app = App::new(config).expect("an application");
    println!("broker {}, {n} messages a round, {rounds} rounds", app.config().broker_url);
    app.send(noop.with(User::new(0))).await.expect("the broker is there");
    app.broker().await.expect("a broker").purge("bench").await.expect("a purged queue");

    let mut table = Table::default();
    for round in 0..rounds {
        if let Some(url) = &amqp {
            let raw = raw::Raw::connect(url, "bench").await;
            table.add("raw publish, 1000 in flight", rate(n, raw.publish(n, 1000)).await);
            app.broker().await.expect("a broker").purge("bench").await.expect("purged");
        }
        table.add("delay, 64 callers", rate(n, delay(&app, n, 64)).await);
        if let Some(url) = &amqp {
            let raw = raw::Raw::connect(url, "bench").await;
            table.add("raw drain, prefetch 1000, multiple acks", rate(n, raw.drain(n)).await);
        } else {
            drain(&app, n).await;
        }
        table.add("delay, 1000 callers", rate(n, delay(&app, n, 1000)).await);
        table.add("worker", n as f64 / drain(&app, n).await.as_secs_f64());
        let alone = number("ALONE", 300);
        table.add("delay, one caller (1/s)", rate(alone, delay(&app, alone, 1)).await);
        drain(&app, alone).await;
        table.add("latency p50, µs", latency(&app, 300).await);
        eprintln!("round {} of {rounds}", round + 1);
    }
    table.print();
    app.close().await;
}

async fn rate(n: u64, work: impl Future<Output = ()>) -> f64 {
    let begun = Instant::now();
    work.await;
    n as f64 / begun.elapsed().as_secs_f64()
}

/// Sends `n` calls from `callers` tasks, each awaiting its own `.delay()` before the next.
async fn delay(app: &App, n: u64, callers: u64) {
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..callers)
        .map(|_| {
            let (app, next) = (app.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id >= n {
                        return;
                    }
                    app.send(noop.with(User::new(id))).await.expect("sent");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a caller");
    }
}

/// Runs a worker until `n` tasks are done.
async fn drain(app: &App, n: u64) -> Duration {
    let done = Done::default();
    let mut state = SharedState::default();
    state.insert(done.clone());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let begun = Instant::now();
    let running = tokio::spawn(worker.run());
    while done.count.load(Ordering::Relaxed) < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let elapsed = begun.elapsed();
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    elapsed
}

/// Returns the median time from the call of `.delay()` to its start in an idle worker, in microseconds.
async fn latency(app: &App, n: u64) -> f64 {
    let done = Done::default();
    let mut state = SharedState::default();
    state.insert(done.clone());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut times = Vec::new();
    for id in 0..n {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let begun = Instant::now();
        let (started, sent) = tokio::join!(
            async {
                done.started.notified().await;
                begun.elapsed()
            },
            app.send(noop.with(User::new(id)))
        );
        sent.expect("sent");
        times.push(started.as_secs_f64() * 1e6);
    }
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    median(times)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Figures by name, in the order of their first appearance.
#[derive(Default)]
struct Table(Vec<(&'static str, Vec<f64>)>);

impl Table {
    fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name, vec![value])),
        }
    }

    fn of(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, values)| median(values.clone()))
    }

    fn print(&self) {
        for (name, values) in &self.0 {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(0.0, f64::max);
            println!("{name:<42} {:>9.0} [{low:.0}..{high:.0}]", median(values.clone()));
        }
        for (ours, raw) in [
            ("delay, 64 callers", "raw publish, 1000 in flight"),
            ("delay, 1000 callers", "raw publish, 1000 in flight"),
            ("worker", "raw drain, prefetch 1000, multiple acks"),
        ] {
            if let (Some(ours_value), Some(raw_value)) = (self.of(ours), self.of(raw)) {
                println!("ratio {ours} / {raw}: {:.2}", ours_value / raw_value);
            }
        }
    }
}

/// Keeps up to `window` futures in flight.
pub(crate) async fn windowed<F: Future<Output = ()>>(n: u64, window: usize, start: impl Fn(u64) -> F) {
    let mut flying = FuturesUnordered::new();
    for id in 0..n {
        if flying.len() >= window {
            flying.next().await;
        }
        flying.push(start(id));
    }
    while flying.next().await.is_some() {}
}
