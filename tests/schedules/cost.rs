//! The cost of many schedules: figures to read, not a test that could fail on a slow machine.

use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::lab::{Lab, Listener, Scheduler};

const COUNT: usize = 10_000;

/// CPU time of this process, in seconds, and its memory in MiB.
fn used() -> (f64, f64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 =
        fields.get(11..13).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum();
    let pages: f64 = fields.get(21).and_then(|field| field.parse().ok()).unwrap_or_default();
    (ticks / 100.0, pages * 4096.0 / f64::from(1 << 20))
}

async fn measure(lab: Lab) {
    let listener = Listener::start(&lab).await;
    let schedules: Vec<_> = (0..COUNT).map(|n| lab.every(&format!("s{n}"), 60)).collect();
    let before = used();
    let scheduler = Scheduler::start(lab.app_with(|config| config.schedules = schedules));
    let begun = Utc::now();
    while listener.all().len() < COUNT && Utc::now() - begun < TimeDelta::seconds(200) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let burst = used();
    let mut late: Vec<i64> =
        listener.all().iter().map(|call| (call.at - call.due).num_milliseconds()).collect();
    late.sort_unstable();
    let at = |part: usize| {
        late.get((late.len() * part / 100).min(late.len().saturating_sub(1))).copied().unwrap_or(-1)
    };
    eprintln!(
        "{}: {} of {COUNT} calls that are due at once; late by p50 {} ms, p99 {} ms, at most {} ms; set-up and burst took {:.1} s of \
         CPU with the consumer, {:.0} MiB more memory",
        lab.name,
        late.len(),
        at(50),
        at(99),
        at(100),
        burst.0 - before.0,
        burst.1 - before.1
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let calm = used();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let end = used();
    eprintln!("{}: with nothing due {:.1} % of a CPU", lab.name, (end.0 - calm.0) * 10.0);
    scheduler.stop();
    assert_eq!(late.len(), COUNT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures; run it alone: cargo test -p mq-worker-tests ten_thousand -- --ignored --nocapture --test-threads=1"]
async fn ten_thousand_schedules_on_memory() {
    measure(Lab::memory().expect("memory")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn ten_thousand_schedules_on_sqlite() {
    measure(Lab::sqlite().expect("a file")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn ten_thousand_schedules_on_rabbitmq() {
    if let Some(lab) = Lab::rabbitmq() {
        measure(lab).await;
    }
}
