//! How speed and memory change with depth, size, concurrency, queues, workers and prefetch.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin curves                     # SQLite
//! $ MQ_BROKER_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin curves -- size workers
//! ```
//!
//! Each point runs in its own process, so that its memory is measured separately. `DEEPEST` in the environment is the
//! deepest queue; a million by default. Rates are tasks per second; memory is the RSS of the worker at the end.
#![allow(clippy::print_stdout)]

mod draining;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use draining::{Done, drain, number};
use mq_worker::{App, Config, Context, Prefetch, SharedState, Worker, task};

/// How many tasks a point has, unless the curve sets another number.
const TASKS: u64 = 20_000;
/// How long each task of the concurrency curve sleeps.
const NAP: Duration = Duration::from_secs(1);
/// The most bytes that are sent for one size.
const BYTES: u64 = 100_000_000;

/// The parameter that changes, and its values.
const CURVES: [(&str, &[u64]); 6] = [
    ("depth", &[1_000, 10_000, 100_000, 1_000_000, 5_000_000]),
    ("size", &[100, 1_000, 10_000, 100_000, 1_000_000]),
    ("concurrency", &[1, 10, 100, 1_000, 10_000]),
    ("queues", &[1, 5, 50, 500]),
    ("workers", &[1, 2, 5, 10, 50]),
    ("prefetch", &[1, 10, 20, 100, 1_000]),
];

#[task(name = "curves.noop", ignore_result)]
async fn noop(ctx: &Context, text: String) {
    std::hint::black_box(&text);
    ctx.state::<Done>().count();
}

#[task(name = "curves.nap", ignore_result)]
async fn nap(ctx: &Context) {
    tokio::time::sleep(NAP).await;
    ctx.state::<Done>().count();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["point", curve, value] => runtime.block_on(point(curve, value.parse().expect("a number"))),
        ["worker", queue] => runtime.block_on(work(queue)),
        ref curves => all(curves),
    }
}

/// Measures all points of the given curves, or of all curves.
fn all(wanted: &[&str]) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let sqlite = format!("sqlite:{}", directory.path().join("queue.db").display());
    let broker = std::env::var("MQ_BROKER_URL").unwrap_or(sqlite);
    let deepest = number("DEEPEST", 1_000_000);
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(&name);
    for (curve, values) in CURVES.into_iter().filter(|(name, _)| is_wanted(name)) {
        println!("\n| {curve} | queued/s | drained/s | CPU a task | memory |\n|---|---|---|---|---|");
        for value in values.iter().filter(|value| curve != "depth" || **value <= deepest) {
            let program = std::env::current_exe().expect("this program");
            let mut point = Command::new(program);
            point.args(["point", curve, &value.to_string()]).env("MQ_BROKER_URL", &broker);
            assert!(point.status().expect("it starts").success(), "{curve} {value}");
        }
    }
}

fn config(queues: Vec<String>) -> Config {
    let mut config = Config::load().expect("a good configuration");
    config.worker.queues = queues;
    config
}

async fn point(curve: &str, value: u64) {
    let count = if curve == "queues" { value } else { 1 };
    // Each point has new queues, so that no point depends on another.
    let prefix = format!("curves-{curve}-{value}-{}", std::process::id());
    let queues: Vec<String> = (0..count).map(|number| format!("{prefix}-{number}")).collect();
    let mut config = config(queues.clone());
    let (tasks, size) = match curve {
        "depth" => (value, 100),
        "size" => ((BYTES / value).min(TASKS), value),
        "concurrency" => (value, 0),
        "workers" => (5 * TASKS, 100),
        _ => (TASKS, 100),
    };
    match curve {
        "concurrency" => config.worker.concurrency = usize::try_from(value).expect("a number of slots"),
        // Ten slots per processor, as by default.
        "prefetch" => config.worker.prefetch = Prefetch::Fixed(u16::try_from(value).expect("a prefetch")),
        _ => {}
    }
    let app = App::new(config).expect("an application");
    let begun = Instant::now();
    send(&app, curve, &queues, tasks, size).await;
    let queued = tasks as f64 / begun.elapsed().as_secs_f64();
    let drained = match curve {
        "workers" => drain_by(&app, &queues[0], value, tasks).await,
        _ => {
            let drained = drain(&app, tasks).await;
            format!("{:.0} | {:.1} µs | {:.0} MB", drained.settled_rate, drained.micros, memory())
        }
    };
    println!("| {value} | {queued:.0} | {drained} |");
    let broker = app.broker().await.expect("the broker");
    for queue in &queues {
        broker.delete_queue(queue).await.expect("deleted");
    }
    app.close().await;
}

async fn send(app: &App, curve: &str, queues: &[String], tasks: u64, size: u64) {
    let text = "x".repeat(usize::try_from(size).expect("a size"));
    // In batches of at most 20 MB.
    let batch = (20_000_000 / size.max(1)).clamp(1, 10_000);
    let queue = |number: u64| queues[usize::try_from(number).expect("a number") % queues.len()].as_str();
    for first in (0..tasks).step_by(usize::try_from(batch).expect("a number")) {
        let numbers = first..tasks.min(first + batch);
        match curve {
            "concurrency" => {
                app.send_many(numbers.map(|n| nap.with().queue(queue(n)))).await.expect("sent").len()
            }
            _ => app.send_many(numbers.map(|n| noop.with(&text).queue(queue(n)))).await.expect("sent").len(),
        };
    }
}

/// Drains a queue with several processes, until all of them have stopped.
async fn drain_by(app: &App, queue: &str, workers: u64, tasks: u64) -> String {
    let program = std::env::current_exe().expect("this program");
    let start = |_| {
        let mut worker = Command::new(&program);
        worker.args(["worker", queue]).stdin(Stdio::piped()).spawn().expect("it starts")
    };
    let mut running: Vec<_> = (0..workers).map(start).collect();
    let broker = app.broker().await.expect("the broker");
    let names = [queue.to_owned()];
    let ready = async || broker.queues(&names).await.expect("an answer").remove(0).ready;
    // Exclude start-up from the measurement.
    while ready().await == tasks {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    while ready().await > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.iter_mut().for_each(|worker| drop(worker.stdin.take()));
    for worker in &mut running {
        worker.wait().expect("it ends");
    }
    format!("{:.0} | |", tasks as f64 / begun.elapsed().as_secs_f64())
}

/// Runs a worker until its input ends.
async fn work(queue: &str) {
    let app = App::new(config(vec![queue.to_owned()])).expect("an application");
    let mut state = SharedState::default();
    state.insert(Done::default());
    let worker = Worker::new(app.clone()).expect("a worker").with_state(state);
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()))
        .await
        .expect("read")
        .expect("read");
    handle.stop();
    running.await.expect("no panic").expect("the worker ran");
    app.close().await;
}

/// RSS of this process in MB.
fn memory() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}
