//! The cost of events: a worker drains a queue, with `--events` and without, in turns.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin events                        # SQLite
//! $ MQ_BROKER_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin events
//! ```
//!
//! `N` tasks per round and `ROUNDS` rounds can be set in the environment. CPU time is that of this process alone: of the
//! worker and the sending of its events.
#![allow(clippy::print_stdout)]

mod draining;

use draining::{Done, Drained, drain, median, number};
use mq_worker::{App, Config, Context, task};

#[task(name = "bench.observed", queue = "bench.events", ignore_result)]
async fn observed(ctx: &Context, n: u64) -> u64 {
    ctx.state::<Done>().count();
    n
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
        // The first round is a warm-up.
        if round > 0 {
            rounds_of.push(pair.try_into().ok().expect("a pair"));
        }
    }
    let column = |pick: fn(&[Drained; 2]) -> f64| median(rounds_of.iter().map(pick).collect());
    println!(
        "broker {}, {n} tasks, {rounds} rounds: {:.0} tasks/s without events, {:.0} with: ratio {:.2}; \
         CPU time {:.1} and {:.1} µs a task: ratio {:.2}",
        silent.config().broker_url,
        column(|[off, _]| off.rate),
        column(|[_, on]| on.rate),
        column(|[off, on]| on.rate / off.rate),
        column(|[off, _]| off.micros),
        column(|[_, on]| on.micros),
        column(|[off, on]| on.micros / off.micros),
    );
    silent.close().await;
    reporting.close().await;
}
