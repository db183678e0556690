//! The cost of results: a worker drains a queue, with results in each result backend and without, in turns.
//!
//! ```console
//! $ cargo run --release -p mq-worker-benches --bin stores -- redis://localhost postgres://localhost/bench sqlite
//! $ MQ_BROKER_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin stores -- rpc redis://localhost
//! $ cargo run --release -p mq-worker-benches --bin stores -- --million redis://localhost postgres://localhost/bench
//! ```
//!
//! `sqlite` is the file of the broker, or another file if the broker is not SQLite. `N` tasks per round and `ROUNDS` rounds
//! can be set in the environment. CPU time is that of this process alone. With `--million`, `N` results that expire soon
//! (a million by default) are stored; it prints how long storing and fetching take meanwhile, and whether the first is gone.
#![allow(clippy::print_stdout)]

mod draining;

use std::sync::Arc;
use std::time::{Duration, Instant};

use draining::{Done, drain, median, number};
use futures_util::stream::{self, StreamExt};
use mq_worker::backend::{self, BackendOptions, ResultRecord};
use mq_worker::{App, BrokerUrl, Config, ConnectOptions, Context, QueueKind, TlsOptions, task};

#[task(name = "bench.ignored", queue = "bench.results", ignore_result)]
async fn ignored(ctx: &Context, n: u64) -> u64 {
    ctx.state::<Done>().count();
    n
}

#[task(name = "bench.kept", queue = "bench.results")]
async fn kept(ctx: &Context, n: u64) -> u64 {
    ctx.state::<Done>().count();
    n
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = |name: &str| format!("sqlite:{}", directory.path().join(name).display());
    let broker = std::env::var("MQ_BROKER_URL").unwrap_or_else(|_| file("queue.db"));
    let is_long = arguments.iter().any(|argument| argument == "--million");
    for name in arguments.iter().filter(|argument| *argument != "--million") {
        let store = match name.as_str() {
            "sqlite" if broker.starts_with("sqlite:") => broker.clone(),
            "sqlite" => file("results.db"),
            "rpc" => "rpc://".to_owned(),
            url => url.to_owned(),
        };
        let store: BrokerUrl = store.parse().expect("the address of a store");
        match is_long {
            true => million(&broker, &store).await,
            false => compare(&broker, store).await,
        }
    }
}

/// Drains with results and without, in turns.
async fn compare(broker: &str, store: BrokerUrl) {
    let (n, rounds) = (number("N", 20_000), number("ROUNDS", 5));
    let mut config =
        Config { broker_url: broker.parse().expect("the address of a broker"), ..Config::default() };
    config.result_backend = Some(store.clone());
    config.worker.concurrency = 1000;
    let app = App::new(config).expect("an application");
    let (mut ratios, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let calls = (0..n).map(|id| ignored.with(id));
        let without = drain(&app, app.send_many(calls).await.expect("sent").len() as u64).await;
        // The handles are kept, as by a caller that waits.
        let handles = app.send_many((0..n).map(|id| kept.with(id))).await.expect("sent");
        let with = drain(&app, handles.len() as u64).await;
        ratios.push(with.settled_rate / without.settled_rate);
        costs.push((without.settled_rate, with.settled_rate, without.micros, with.micros));
    }
    let column = |pick: fn(&(f64, f64, f64, f64)) -> f64| median(costs.iter().map(pick).collect());
    ratios.sort_by(f64::total_cmp);
    println!(
        "{store}, broker {}: {:.0} tasks/s without, {:.0} with results: ratio {:.2} [{:.2}..{:.2}]; CPU of the worker {:.1} \
         and {:.1} µs a task",
        app.config().broker_url,
        column(|cost| cost.0),
        column(|cost| cost.1),
        median(ratios.clone()),
        ratios[0],
        ratios[ratios.len() - 1],
        column(|cost| cost.2),
        column(|cost| cost.3),
    );
    app.close().await;
}

/// Stores results that expire, and shows how that affects callers.
async fn million(broker: &str, store: &BrokerUrl) {
    let n = number("N", 1_000_000);
    let expires = Duration::from_secs(number("EXPIRES", 60));
    let connect = ConnectOptions {
        timeout: Duration::from_secs(30),
        queue_kind: QueueKind::Quorum,
        tls: TlsOptions::default(),
        name: "bench".into(),
    };
    let options = BackendOptions { connect, expires };
    let broker = broker.parse().expect("the address of a broker");
    let backend = backend::open(&broker, Some(store), &options).await.expect("a store");
    let write = |id: u64| {
        let backend = Arc::clone(&backend);
        async move {
            let record = ResultRecord::success(format!("bench-{id}"), id.to_string().into()).expect("JSON");
            let begun = Instant::now();
            backend.store(&record, None).await.expect("stored");
            begun.elapsed()
        }
    };
    let begun = Instant::now();
    let times: Vec<Duration> = stream::iter(0..n).map(write).buffer_unordered(64).collect().await;
    println!("{store}: {n} results stored in {:.0?}; one takes {}", begun.elapsed(), shown(times));
    // All of them expire while others are stored and fetched, one after the other.
    let (mut stored, mut fetched) = (Vec::new(), Vec::new());
    let until = Instant::now() + expires + Duration::from_secs(60);
    let mut id = n;
    while Instant::now() < until {
        stored.push(write(id).await);
        let begun = Instant::now();
        backend.fetch(&format!("bench-{id}")).await.expect("an answer").expect("it is there");
        fetched.push(begun.elapsed());
        id += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("{store}: while they expire, storing takes {}, fetching {}", shown(stored), shown(fetched));
    let gone = backend.fetch("bench-0").await.expect("an answer").is_none();
    println!("{store}: the first one is {}", if gone { "gone" } else { "still there" });
    backend.close().await;
}

fn shown(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("{:.1?} (median), {:.1?} (p99), {:.1?} (at most)", at(0.5), at(0.99), at(1.0))
}
