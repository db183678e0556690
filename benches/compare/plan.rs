//! Which measurements are made, in which order, and what is compared with what.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use serde::Serialize;

use crate::Failure;
use crate::measure::Figures;

/// The number of tasks in a latency measurement.
const SINGLE: u64 = 300;

/// All that was measured.
#[derive(Serialize)]
pub(crate) struct Comparison {
    pub(crate) tasks: u64,
    pub(crate) rounds: usize,
    /// The rounds of each measurement, by its name.
    pub(crate) measured: BTreeMap<String, Vec<Figures>>,
    pub(crate) rows: Vec<Row>,
}

impl Comparison {
    /// The median rate of a measurement, if it was made.
    pub(crate) fn rate(&self, name: &str) -> Option<f64> {
        let figures = self.measured.get(name)?;
        Some(median(figures.iter().map(RATE).collect()))
    }
}

/// One line of the result.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    /// Medians.
    pub(crate) ours: f64,
    pub(crate) reference: f64,
    /// The median of the rounds' ratios.
    pub(crate) ratio: f64,
    /// The lowest and the highest of them.
    pub(crate) range: (f64, f64),
    /// What the ratio is measured against.
    pub(crate) against: &'static str,
}

/// A program that measures other task queues, and their names.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    names: Vec<String>,
    program: Vec<String>,
}

impl FromStr for Peers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = |text: &str, at| text.split(at).filter(|word| !word.is_empty()).map(Into::into).collect();
        match text.split_once('=') {
            Some((names, program)) if !program.trim().is_empty() => {
                Ok(Self { names: words(names, ','), program: words(program, ' ') })
            }
            _ => Err("give the names of peers and their program, as in `celery,huey=python peers.py`".into()),
        }
    }
}

/// Picks a figure of a measurement.
type Pick = fn(&Figures) -> f64;

const RATE: Pick = |figures| figures.rate;
const CPU: Pick = |figures| figures.cpu;
const LATENCY: Pick = |figures| figures.latency;
const CONFIRMED: Pick = |figures| figures.confirmed;
const RSS: Pick = |figures| figures.rss;

/// A comparison: the name of the line, its unit, the figure, our measurement, the other one, and what the other one is.
type Compared = (&'static str, &'static str, Pick, &'static str, &'static str, &'static str);

const COMPARED: [Compared; 25] = [
    ("RabbitMQ: drain, worker", "tasks/s", RATE, "amqp drain", "amqp raw drain", "lapin"),
    ("RabbitMQ: drain, broker alone", "tasks/s", RATE, "amqp broker drain", "amqp raw drain", "lapin"),
    ("RabbitMQ: CPU a drained task", "µs", CPU, "amqp drain", "amqp raw drain", "lapin"),
    ("RabbitMQ: enqueue, 64 callers", "tasks/s", RATE, "amqp enqueue 64", "amqp raw enqueue 64", "lapin"),
    (
        "RabbitMQ: enqueue, 1,000 callers",
        "tasks/s",
        RATE,
        "amqp enqueue 1000",
        "amqp raw enqueue 1000",
        "lapin",
    ),
    ("RabbitMQ: CPU an enqueued task, 64", "µs", CPU, "amqp enqueue 64", "amqp raw enqueue 64", "lapin"),
    (
        "RabbitMQ: CPU an enqueued task, 1,000",
        "µs",
        CPU,
        "amqp enqueue 1000",
        "amqp raw enqueue 1000",
        "lapin",
    ),
    ("RabbitMQ: latency p50", "µs", LATENCY, "amqp latency", "amqp raw latency", "lapin"),
    ("RabbitMQ: confirm p50, one caller", "µs", CONFIRMED, "amqp latency", "amqp raw latency", "lapin"),
    ("RabbitMQ: RSS of the worker", "MB", RSS, "amqp drain", "amqp raw drain", "lapin"),
    ("SQLite: enqueue, 64 callers", "tasks/s", RATE, "sqlite enqueue 64", "sqlite raw enqueue", "rusqlite"),
    ("SQLite: CPU an enqueued task", "µs", CPU, "sqlite enqueue 64", "sqlite raw enqueue", "rusqlite"),
    ("SQLite: drain, worker", "tasks/s", RATE, "sqlite drain", "sqlite broker drain", "the broker alone"),
    ("SQLite: CPU a drained task", "µs", CPU, "sqlite drain", "sqlite broker drain", "the broker alone"),
    ("SQLite: RSS of the worker", "MB", RSS, "sqlite drain", "sqlite broker drain", "the broker alone"),
    // Peers get durable classic queues, since some of them support no others.
    ("RabbitMQ: drain", "tasks/s", RATE, "amqp drain", "celery drain", "Celery"),
    ("RabbitMQ: drain", "tasks/s", RATE, "amqp drain", "dramatiq drain", "Dramatiq"),
    ("RabbitMQ: drain", "tasks/s", RATE, "amqp drain", "rusty-celery drain", "rusty-celery"),
    ("RabbitMQ: drain", "tasks/s", RATE, "amqp drain", "apalis drain", "apalis"),
    ("RabbitMQ: enqueue", "tasks/s", RATE, "amqp enqueue 64", "celery enqueue", "Celery, unconfirmed"),
    ("RabbitMQ: enqueue", "tasks/s", RATE, "amqp enqueue 64", "dramatiq enqueue", "Dramatiq, unconfirmed"),
    (
        "RabbitMQ: enqueue",
        "tasks/s",
        RATE,
        "amqp enqueue 64",
        "rusty-celery enqueue",
        "rusty-celery, unconfirmed",
    ),
    (
        "RabbitMQ: enqueue",
        "tasks/s",
        RATE,
        "amqp enqueue 64",
        "apalis enqueue",
        "apalis, unconfirmed, in memory",
    ),
    ("SQLite: enqueue", "tasks/s", RATE, "sqlite enqueue 64", "huey enqueue", "huey"),
    ("SQLite: drain", "tasks/s", RATE, "sqlite drain", "huey drain", "huey"),
];

/// These peers get [`FEWER`] times fewer tasks: they take about a millisecond for each, apalis to enqueue it.
const SLOW: [&str; 4] = ["apalis", "celery", "dramatiq", "huey"];
const FEWER: u64 = 10;

/// Measures everything whose name contains `only`.
pub(crate) fn run(
    amqp: Option<&str>,
    tasks: u64,
    rounds: usize,
    only: &str,
    peers: &[Peers],
) -> Result<Comparison, Failure> {
    // In the working directory: a temporary one may be in memory, where a sync costs nothing.
    let directory = std::env::current_dir()?.join("target").join(format!("compare-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let measured = measure_all(amqp, &directory, tasks, rounds, only, peers);
    std::fs::remove_dir_all(&directory)?;
    let measured = measured?;
    let rows = COMPARED.iter().filter_map(|compared| row(&measured, compared)).collect();
    Ok(Comparison { tasks, rounds, measured, rows })
}

fn measure_all(
    amqp: Option<&str>,
    directory: &Path,
    tasks: u64,
    rounds: usize,
    only: &str,
    peers: &[Peers],
) -> Result<BTreeMap<String, Vec<Figures>>, Failure> {
    let mut measured = BTreeMap::<String, Vec<Figures>>::new();
    let raw = directory.join("raw.db").display().to_string();
    let sqlite = format!("sqlite:{}", directory.join("jobs.db").display());
    // Each enqueue fills the queue for the drain that follows it.
    let mut steps = Vec::new();
    if let Some(at) = amqp {
        steps.extend([
            ("amqp raw enqueue 1000", vec!["raw-enqueue", at], Some("1000")),
            ("amqp raw drain", vec!["raw-drain", at], None),
            ("amqp enqueue 1000", vec!["enqueue", at], Some("1000")),
            ("amqp drain", vec!["drain", at], None),
            ("amqp raw enqueue 64", vec!["raw-enqueue", at], Some("64")),
            ("amqp broker drain", vec!["broker-drain", at], None),
            ("amqp enqueue 64", vec!["enqueue", at], Some("64")),
            ("amqp drain", vec!["drain", at], None),
            ("amqp raw latency", vec!["raw-latency", at], None),
            ("amqp latency", vec!["latency", at], None),
        ]);
    }
    steps.extend([
        ("sqlite raw enqueue", vec!["rusqlite-enqueue", &raw], None),
        ("sqlite enqueue 64", vec!["enqueue", &sqlite], Some("64")),
        ("sqlite drain", vec!["drain", &sqlite], None),
        ("sqlite enqueue 64", vec!["enqueue", &sqlite], Some("64")),
        ("sqlite broker drain", vec!["broker-drain", &sqlite], None),
    ]);
    // A wanted drain needs the step that fills its queue.
    let wanted = |step: Option<&(&str, _, _)>| step.is_some_and(|(name, ..)| name.contains(only));
    let drains = |step: Option<&(&str, _, _)>| step.is_some_and(|(name, ..)| name.ends_with("drain"));
    let is_kept = |at| wanted(steps.get(at)) || drains(steps.get(at + 1)) && wanted(steps.get(at + 1));
    let kept: Vec<bool> = (0..steps.len()).map(is_kept).collect();
    let mut kept = kept.into_iter();
    steps.retain(|_| kept.next().unwrap_or(false));
    for at in amqp.into_iter().chain([&*sqlite]) {
        child(&["prepare", at])?;
    }
    let (all, single) = (tasks.to_string(), SINGLE.to_string());
    let (fewer, file) = ((tasks / FEWER).max(1).to_string(), directory.join("peer.db").display().to_string());
    for round in 0..rounds {
        for (name, role, more) in &steps {
            let tasks = if name.ends_with("latency") { &single } else { &all };
            let line: Vec<&str> = role.iter().copied().chain([&**tasks]).chain(*more).collect();
            let figures = child(&line).map_err(|error| format!("{name}: {error}"))?;
            measured.entry((*name).to_owned()).or_default().push(figures);
        }
        for (peers, peer) in peers.iter().flat_map(|peers| peers.names.iter().map(move |peer| (peers, peer)))
        {
            let Some(at) = (if peer == "huey" { Some(&*file) } else { amqp }) else { continue };
            for what in ["enqueue", "drain"] {
                let name = format!("{peer} {what}");
                let mut command = Command::new(&peers.program[0]);
                let tasks = if SLOW.contains(&peer.as_str()) { &fewer } else { &all };
                command.args(&peers.program[1..]).args([peer, what, at, tasks]);
                let figures = figures_of(&mut command).map_err(|error| format!("{name}: {error}"))?;
                measured.entry(name).or_default().push(figures);
            }
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    Ok(measured)
}

/// Runs a measurement in its own process.
fn child(line: &[&str]) -> Result<Figures, Failure> {
    figures_of(Command::new(std::env::current_exe()?).args(line))
}

fn figures_of(command: &mut Command) -> Result<Figures, Failure> {
    let output = command.output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().ok_or("the measurement said nothing")?)?)
}

fn row(measured: &BTreeMap<String, Vec<Figures>>, compared: &Compared) -> Option<Row> {
    let (what, unit, pick, ours, reference, against) = *compared;
    let (ours, reference) = (measured.get(ours)?, measured.get(reference)?);
    // If one side is measured twice in a round, both of its figures are compared with the one of the other side.
    let longest = ours.len().max(reference.len());
    let at = |all: &[Figures], index: usize| pick(&all[index * all.len() / longest]);
    let ratios: Vec<f64> = (0..longest).map(|index| at(ours, index) / at(reference, index)).collect();
    let all = |figures: &[Figures]| figures.iter().map(pick).collect();
    Some(Row {
        what,
        unit,
        ours: median(all(ours)),
        reference: median(all(reference)),
        range: (
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ),
        ratio: median(ratios),
        against,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
