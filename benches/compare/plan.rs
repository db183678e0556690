//! Which measurements are made, in which order, and what is compared with what.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

use crate::Failure;
use crate::measure::Figures;

/// How many tasks a latency is measured with.
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
    /// The worst and the best of them.
    pub(crate) range: (f64, f64),
    /// What the ratio is measured against.
    pub(crate) against: &'static str,
    /// True where a larger ratio is better.
    pub(crate) more_is_better: bool,
}

/// Which figure of a measurement.
type Pick = fn(&Figures) -> f64;

const RATE: Pick = |figures| figures.rate;
const CPU: Pick = |figures| figures.cpu;
const LATENCY: Pick = |figures| figures.latency;
const RSS: Pick = |figures| figures.rss;

/// What is compared: the name of the line, its unit, which figure, our measurement, the other, and what the other is.
type Compared = (&'static str, &'static str, Pick, &'static str, &'static str, &'static str);

const COMPARED: [Compared; 14] = [
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
    ("RabbitMQ: RSS of the worker", "MB", RSS, "amqp drain", "amqp raw drain", "lapin"),
    ("SQLite: enqueue, 64 callers", "tasks/s", RATE, "sqlite enqueue 64", "sqlite raw enqueue", "rusqlite"),
    ("SQLite: CPU an enqueued task", "µs", CPU, "sqlite enqueue 64", "sqlite raw enqueue", "rusqlite"),
    ("SQLite: drain, worker", "tasks/s", RATE, "sqlite drain", "sqlite broker drain", "the broker alone"),
    ("SQLite: CPU a drained task", "µs", CPU, "sqlite drain", "sqlite broker drain", "the broker alone"),
    ("SQLite: RSS of the worker", "MB", RSS, "sqlite drain", "sqlite broker drain", "the broker alone"),
];

/// Measures everything whose name contains `only`.
pub(crate) fn run(amqp: Option<&str>, tasks: u64, rounds: usize, only: &str) -> Result<Comparison, Failure> {
    // In the working directory: a temporary one may be memory, where a sync costs nothing.
    let directory = std::env::current_dir()?.join("target").join(format!("compare-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let measured = measure_all(amqp, &directory, tasks, rounds, only);
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
    steps.retain(|(name, ..)| name.contains(only));
    for at in amqp.into_iter().chain([&*sqlite]) {
        child(&["prepare", at])?;
    }
    let (all, single) = (tasks.to_string(), SINGLE.to_string());
    for round in 0..rounds {
        for (name, role, more) in &steps {
            let tasks = if name.ends_with("latency") { &single } else { &all };
            let line: Vec<&str> = role.iter().copied().chain([&**tasks]).chain(*more).collect();
            let figures = child(&line).map_err(|error| format!("{name}: {error}"))?;
            measured.entry((*name).to_owned()).or_default().push(figures);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    Ok(measured)
}

/// A measurement in a process of its own.
fn child(line: &[&str]) -> Result<Figures, Failure> {
    let output = Command::new(std::env::current_exe()?).args(line).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(text.lines().last().ok_or("the measurement said nothing")?)?)
}

fn row(measured: &BTreeMap<String, Vec<Figures>>, compared: &Compared) -> Option<Row> {
    let (what, unit, pick, ours, reference, against) = *compared;
    let (ours, reference) = (measured.get(ours)?, measured.get(reference)?);
    // A measurement that is made twice in a round has both of its figures beside the other's one.
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
        more_is_better: unit == "tasks/s",
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
