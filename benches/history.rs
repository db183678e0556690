//! The history: how many events per second it records, and how long a page among many calls takes.
//!
//! ```console
//! cargo run --release -p mq-worker-benches --bin history [calls] [directory]
//! ```
#![allow(clippy::print_stdout, reason = "the figures are what this program is for")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use mq_worker::history::{Entry, Filter, GroupBy, History, JobState, Kind, Occurrence, RateQuery};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How many events one transaction records, as when a backlog is read.
const BATCH: usize = 1000;
/// How many calls start between two events of one call, so that its events are spread over several transactions.
const APART: usize = 600;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let calls = arguments.next().map_or(Ok(200_000), |calls| calls.parse())?;
    let directory = match arguments.next() {
        Some(directory) => PathBuf::from(directory),
        None => std::env::current_dir()?.join("target"),
    };
    let directory = directory.join(format!("history-bench-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let outcome = run(&directory.join("history.db"), calls).await;
    std::fs::remove_dir_all(&directory)?;
    outcome
}

async fn run(path: &std::path::Path, calls: usize) -> Result<(), Failure> {
    let history = History::open(path).await?;
    fill(&history, calls).await?;
    let size = std::fs::metadata(path)?.len() >> 20;
    println!("{calls} calls take {size} MiB");

    let none = Filter::default;
    let some = |text: &str| Some(text.to_owned());
    let middle =
        history.jobs(none(), 1, None).await?.jobs[0].state_at - TimeDelta::seconds(calls as i64 / 2000);
    for (what, filter) in [
        ("the newest", none()),
        ("in the middle of the time", Filter { to: Some(middle), ..none() }),
        ("one id", Filter { id: Some(id(calls / 2)), ..none() }),
        ("ids that begin alike", Filter { id: some("00a"), ..none() }),
        ("one task", Filter { name: some("app.task7"), ..none() }),
        ("tasks by a pattern", Filter { name: some("*task1*"), ..none() }),
        ("failed", Filter { states: vec![JobState::Failure], ..none() }),
        (
            "failed, of one task",
            Filter { name: some("app.task7"), states: vec![JobState::Failure], ..none() },
        ),
        ("a state that nothing has", Filter { states: vec![JobState::Revoked], ..none() }),
        (
            "one queue and one worker",
            Filter { queue: some("queue3"), worker: some("worker2@host"), ..none() },
        ),
        ("a rare word", Filter { text: Some(format!("user{}", calls / 3)), ..none() }),
        ("a word in every call", Filter { text: some("example.com"), ..none() }),
        ("a word and a state", Filter { text: some("example"), states: vec![JobState::Failure], ..none() }),
        (
            "a common word in what nothing is",
            Filter { text: some("example"), queue: some("queue3"), worker: some("worker4@host"), ..none() },
        ),
    ] {
        // The first query has to read from disk.
        let mut times = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            let page = history.jobs(filter.clone(), 50, None).await?;
            times.push((begun.elapsed(), page));
        }
        let slowest = times.iter().map(|(time, _)| *time).max().unwrap_or_default();
        times.sort_by_key(|(time, _)| *time);
        let (median, page) = &times[2];
        let cut = if page.searched_to.is_some() { ", not to the end" } else { "" };
        println!("page: {what:<36} {median:>8.1?}, slowest {slowest:>8.1?}, {} calls{cut}", page.jobs.len());
    }
    let begun = Instant::now();
    history.failure_groups().await?;
    println!("groups of failures                        {:>9.1?}", begun.elapsed());
    let day = Duration::from_secs(24 * 3600);
    let begun = Instant::now();
    history.totals(GroupBy::Task, day).await?;
    println!("totals of a day by task                   {:>9.1?}", begun.elapsed());
    let begun = Instant::now();
    let query = RateQuery { window: day, step: Duration::from_secs(600), ..RateQuery::default() };
    history.rates(query).await?;
    println!("chart of a day                            {:>9.1?}", begun.elapsed());
    Ok(())
}

async fn fill(history: &History, calls: usize) -> Result<(), Failure> {
    let mut batch = Vec::with_capacity(BATCH);
    let begun = Instant::now();
    let (mut events, mut last) = (0, (Instant::now(), 0));
    let start = Utc::now() - TimeDelta::milliseconds(calls as i64);
    for step in 0..calls + 2 * APART {
        let at = start + TimeDelta::milliseconds(step as i64);
        let happened = [
            (step < calls).then(|| sent(step, at)),
            step.checked_sub(APART).filter(|call| *call < calls).map(|call| worker(Kind::Received, call, at)),
            step.checked_sub(APART)
                .filter(|call| *call < calls)
                .map(|call| worker(Kind::Started, call, at + TimeDelta::microseconds(10))),
            step.checked_sub(2 * APART).filter(|call| *call < calls).map(|call| ended(call, at)),
        ];
        batch.extend(happened.into_iter().flatten().map(|event| Entry::Call(Box::new(event))));
        if batch.len() >= BATCH {
            events += batch.len();
            history.record(std::mem::replace(&mut batch, Vec::with_capacity(BATCH))).await?;
        }
        if step.is_multiple_of(250_000) && step > 0 {
            let rate = (events - last.1) as f64 / last.0.elapsed().as_secs_f64();
            println!("at {step:>9} calls: {rate:>8.0} events/s");
            last = (Instant::now(), events);
        }
    }
    events += batch.len();
    history.record(batch).await?;
    println!("recorded {events} events, {:.0} events/s", events as f64 / begun.elapsed().as_secs_f64());
    if let Some(seconds) = cpu_seconds() {
        println!("and {:.0} events for each second of one processor", events as f64 / seconds);
    }
    Ok(())
}

/// The CPU time of this process in seconds, if the system reports it.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Ids in no particular order, like random ones.
fn id(call: usize) -> String {
    let mixed = (call as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let more = mixed.rotate_left(31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    uuid::Uuid::from_u64_pair(mixed, more).to_string()
}

fn sent(call: usize, at: chrono::DateTime<Utc>) -> Occurrence {
    Occurrence {
        name: Some(format!("app.task{}", call % 40)),
        queue: Some(format!("queue{}", call % 8)),
        args: Some(format!(
            "('user{call}', {{'email': 'user{call}@example.com', 'amount': {}}})",
            call % 977
        )),
        kwargs: Some("{'urgent': False}".into()),
        ..Occurrence::new(Kind::Sent, id(call), at)
    }
}

fn worker(kind: Kind, call: usize, at: chrono::DateTime<Utc>) -> Occurrence {
    Occurrence { worker: Some(format!("worker{}@host", call % 6)), ..Occurrence::new(kind, id(call), at) }
}

fn ended(call: usize, at: chrono::DateTime<Utc>) -> Occurrence {
    if call.is_multiple_of(50) {
        let error = Some(format!("MailError('no route to user{call}')"));
        return Occurrence { error, runtime: Some(0.5), ..worker(Kind::Failed, call, at) };
    }
    Occurrence { result: Some(format!("{call}")), runtime: Some(0.5), ..worker(Kind::Succeeded, call, at) }
}
