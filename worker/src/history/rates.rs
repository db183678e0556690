//! Reads the counters, as points of a chart or summed up by queue or task.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use super::histogram::Histogram;
use super::labels::{self, LabelKind, Labels};
use super::tallies::SPANS;

/// Windows longer than this many seconds read the hourly counters.
const LONG_WINDOW: i64 = 26 * 3600;

/// Selects counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RateQuery {
    /// Only this queue.
    pub queue: Option<String>,
    /// Only this task.
    pub name: Option<String>,
    /// How far to look back. Beyond 26 hours only whole hours are distinguished.
    pub window: Duration,
    /// The length of one point: at least a minute, in a long window at least an hour.
    pub step: Duration,
}

/// What to group totals by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupBy {
    /// A row for each queue.
    Queue,
    /// A row for each task.
    Task,
}

/// What happened in a period.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Calls sent; 0 if the senders emit no events.
    pub sent: u64,
    /// Runs that started.
    pub started: u64,
    /// Runs that succeeded.
    pub succeeded: u64,
    /// Calls that failed permanently.
    pub failed: u64,
    /// Runs that failed and were to be retried.
    pub retried: u64,
    /// Calls that were revoked or had expired.
    pub revoked: u64,
    /// Calls that a worker rejected.
    pub rejected: u64,
    /// Calls that moved to a dead-letter queue.
    pub dead_lettered: u64,
    /// The median time of a run, in seconds.
    pub run_p50: Option<f64>,
    /// The 95th percentile of the time of a run, in seconds.
    pub run_p95: Option<f64>,
    /// The median time that a call waited in its queue, in seconds.
    pub wait_p50: Option<f64>,
    /// The 95th percentile of the time that a call waited in its queue, in seconds.
    pub wait_p95: Option<f64>,
}

/// One point of a chart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// When it starts.
    pub at: DateTime<Utc>,
    /// What happened until the next point.
    #[serde(flatten)]
    pub counts: Counts,
}

/// One queue or task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Total {
    /// The name of the queue or task; empty if no event reported it.
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Counts and histograms that are still being summed up.
#[derive(Default)]
struct Sum {
    counts: Counts,
    run: Histogram,
    wait: Histogram,
}

impl Sum {
    fn add(&mut self, row: &Line) {
        let counts = &mut self.counts;
        let field = match row.what {
            0 => &mut counts.sent,
            1 => &mut counts.started,
            2 => &mut counts.succeeded,
            3 => &mut counts.failed,
            4 => &mut counts.retried,
            5 => &mut counts.revoked,
            6 => &mut counts.rejected,
            _ => &mut counts.dead_lettered,
        };
        *field += row.count;
        self.run.merge(&row.run);
        self.wait.merge(&row.wait);
    }

    fn counts(self) -> Counts {
        Counts {
            run_p50: self.run.quantile(0.5),
            run_p95: self.run.quantile(0.95),
            wait_p50: self.wait.quantile(0.5),
            wait_p95: self.wait.quantile(0.95),
            ..self.counts
        }
    }
}

/// A row of `tally`.
struct Line {
    at: i64,
    queue: i64,
    name: i64,
    what: i64,
    count: u64,
    run: Histogram,
    wait: Histogram,
}

/// Points of equal length, oldest first and without gaps. The last one is not complete yet.
pub(super) fn points(db: &Connection, query: &RateQuery, now: DateTime<Utc>) -> rusqlite::Result<Vec<Point>> {
    let (span, window) = span(query.window);
    let step = (seconds(query.step).max(span) / span) * span;
    let now = now.timestamp();
    let last = now.div_euclid(step) * step;
    let first = last - ((window - 1) / step).min(10_000) * step;
    let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
    let queue = number(db, LabelKind::Queue, query.queue.as_deref())?;
    let name = number(db, LabelKind::Task, query.name.as_deref())?;
    lines(db, span, first, (queue, name), |line| {
        sums.entry(line.at.div_euclid(step) * step).or_default().add(&line);
    })?;
    let starts = std::iter::successors(Some(first), |at| Some(at + step)).take_while(|at| *at <= last);
    Ok(starts
        .map(|at| Point {
            at: DateTime::from_timestamp(at, 0).unwrap_or_default(),
            counts: sums.remove(&at).unwrap_or_default().counts(),
        })
        .collect())
}

/// What happened within the window by queue or task, in the order of names.
pub(super) fn totals(
    db: &Connection,
    labels: &mut Labels,
    by: GroupBy,
    window: Duration,
    now: DateTime<Utc>,
) -> rusqlite::Result<Vec<Total>> {
    let (span, window) = span(window);
    let mut sums: BTreeMap<i64, Sum> = BTreeMap::new();
    lines(db, span, (now.timestamp() - window).div_euclid(span) * span + span, (None, None), |line| {
        let key = match by {
            GroupBy::Queue => line.queue,
            GroupBy::Task => line.name,
        };
        sums.entry(key).or_default().add(&line);
    })?;
    let mut totals = Vec::with_capacity(sums.len());
    for (label, sum) in sums {
        let name = labels.text(db, Some(label))?.unwrap_or_default();
        totals.push(Total { name, counts: sum.counts() });
    }
    totals.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(totals)
}

/// Reads the counters since a time, optionally only those of one queue, one task or both.
fn lines(
    db: &Connection,
    span: i64,
    from: i64,
    (queue, name): (Option<i64>, Option<i64>),
    mut take: impl FnMut(Line),
) -> rusqlite::Result<()> {
    let mut select = db.prepare_cached(
        "SELECT at, queue, name, what, count, run, wait FROM tally
         WHERE span = ?1 AND at >= ?2 AND (?3 IS NULL OR queue = ?3) AND (?4 IS NULL OR name = ?4)",
    )?;
    let mut rows = select.query((span, from, queue, name))?;
    while let Some(row) = rows.next()? {
        take(Line {
            at: row.get(0)?,
            queue: row.get(1)?,
            name: row.get(2)?,
            what: row.get(3)?,
            count: row.get::<_, i64>(4)?.unsigned_abs(),
            run: Histogram::from_bytes(row.get_ref(5)?.as_blob()?),
            wait: Histogram::from_bytes(row.get_ref(6)?.as_blob()?),
        });
    }
    Ok(())
}

/// The number of a name. An unknown name gets a number that matches nothing.
fn number(db: &Connection, kind: LabelKind, name: Option<&str>) -> rusqlite::Result<Option<i64>> {
    name.map(|name| Ok(labels::find(db, kind, name)?.unwrap_or(-1))).transpose()
}

/// The span of the counters to read for a window, and the length of the window in seconds.
fn span(window: Duration) -> (i64, i64) {
    let window = seconds(window).max(SPANS[0]);
    (if window > LONG_WINDOW { SPANS[1] } else { SPANS[0] }, window)
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}
