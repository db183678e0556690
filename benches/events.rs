//! What events cost: a worker drains a queue, with `--events` and without, in turns.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin events                        # SQLite
//! $ MQ_BROKER_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin events
//! ```
//!
//! `N` tasks a round and `ROUNDS` rounds can be set in the environment. CPU time is that of this process alone: of the worker and
//! what sends its events.
#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mq_worker::control::Control;
use mq_worker::{App, Config, Context, SharedState, Worker, task};

#[task(name = "bench.observed", queue = "bench.events", ignore_result)]
async fn observed(ctx: &Context, n: u64) -> u64 {
    ctx.state::<Done>().0.fetch_add(1, Ordering::Relaxed);
    n
}

#[derive(Clone, Default)]
struct Done(Arc<AtomicU64>);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() {
    let (n, rounds) = (number("N", 20_000), number("ROUNDS", 7));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = format!("sqlite:{}", directory.path().join("queue.db").display());
    let broker = std::env::var("MQ_BROKER_URL").unwrap_or(file);
    let app = |events: bool| {
        let broker_url = broker.parse().expect("the address of a broker");
        let mut config = Config { broker_url, ..Config::default() };
        config.worker.concurrency = 1000;
        config.worker.events = events;
        App::new(config).expect("an application")
    };
    let (silent, reporting) = (app(false), app(true));
    let mut rounds_of: Vec<[Drained; 2]> = Vec::new();
    for round in 0..=rounds {
        let mut pair = Vec::new();
        for app in [&silent, &reporting] {
            silent.send_many((0..n).map(|id| observed.with(id))).await.expect("sent");
            pair.push(drain(app, n).await);
        }
        // The first round warms up.
        if round > 0 {
            rounds_of.push(pair.try_into().ok().expect("a pair"));
        }
    }
    let column = |pick: fn(&[Drained; 2]) -> f64| median(rounds_of.iter().map(pick).collect());
    println!(
        "broker {}, {n} tasks, {rounds} rounds: {:.0} tasks/s without events, {:.0} with: ratio {:.2}; \
         CPU time {:.1} and {:.1} µs a task: ratio {:.2}; {:.0} % of the events dropped",
        silent.config().broker_url,
        column(|[off, _]| off.rate),
        column(|[_, on]| on.rate),
        column(|[off, on]| on.rate / off.rate),
        column(|[off, _]| off.micros),
        column(|[_, on]| on.micros),
        column(|[off, on]| on.micros / off.micros),
        column(|[_, on]| on.dropped / (3.0 * on.tasks) * 100.0),
    );
    silent.close().await;
    reporting.close().await;
}

struct Drained {
    rate: f64,
    /// CPU time of a task.
    micros: f64,
    tasks: f64,
    /// Events that were not sent.
    dropped: f64,
}

/// Runs a worker until the queue is empty and all is settled.
async fn drain(app: &App, n: u64) -> Drained {
    let done = Done::default();
    let mut state = SharedState::default();
    state.insert(done.clone());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let (begun, cpu) = (Instant::now(), cpu_time());
    let running = tokio::spawn(worker.run());
    while done.0.load(Ordering::Relaxed) < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let lasted = begun.elapsed();
    // The question is no part of the work.
    let cpu_so_far = cpu_time();
    let control = Control::new(app.broker().await.expect("a broker")).to([app.config().worker.full_name()]);
    let stats = control.ask("stats", serde_json::Map::new()).await.expect("replies");
    let dropped = stats.first().and_then(|reply| reply.value["events_dropped"].as_f64()).expect("a number");
    let cpu = cpu + (cpu_time() - cpu_so_far);
    // A warm stop ends when the last outcome is settled and the last event is sent.
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    let cpu = cpu_time() - cpu;
    let tasks = n as f64;
    Drained { rate: tasks / lasted.as_secs_f64(), micros: cpu.as_secs_f64() * 1e6 / tasks, tasks, dropped }
}

/// Of all threads of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
