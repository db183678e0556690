//! Workers, as they report themselves in heartbeats.

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::rows::{from_micros, micros};

/// A worker counts as gone after this many of its own intervals without a report, as in Celery.
const MISSED: f64 = 2.0;
/// The heartbeat interval assumed for a worker that does not report it, in seconds.
const USUAL_INTERVAL: f64 = 2.0;

/// What a worker reported.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerReport {
    /// The worker's name.
    pub name: String,
    /// When it reported this.
    pub at: DateTime<Utc>,
    /// False if it reported that it stopped.
    pub is_online: bool,
    /// What it reported.
    pub details: WorkerDetails,
}

/// What a worker reports about itself; fields that it does not report are `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerDetails {
    /// Its process.
    pub pid: Option<u64>,
    /// The interval of its heartbeats, in seconds.
    pub freq: Option<f64>,
    /// How many tasks it runs.
    pub active: Option<u64>,
    /// How many tasks it has run.
    pub processed: Option<u64>,
    /// The load of its machine in the last 1, 5 and 15 minutes.
    pub loadavg: Option<Vec<f64>>,
    /// Its software, such as `mq-worker` or `py-celery`.
    pub software: Option<String>,
    /// The version of its software.
    pub version: Option<String>,
    /// Its operating system.
    pub system: Option<String>,
}

/// A worker that has sent events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SeenWorker {
    /// Its name.
    pub name: String,
    /// The time of its first event.
    pub first_seen_at: DateTime<Utc>,
    /// The time of its last event.
    pub seen_at: DateTime<Utc>,
    /// True if it is expected to be running: it has not reported that it stopped, and its last heartbeat is not too old.
    pub is_online: bool,
    /// What it last reported.
    #[serde(flatten)]
    pub details: WorkerDetails,
}

pub(super) fn record(db: &Connection, report: &WorkerReport, now: DateTime<Utc>) -> rusqlite::Result<()> {
    let at = micros(report.at.min(now));
    let known: Option<i64> = db
        .prepare_cached("SELECT seen_at FROM worker WHERE name = ?1")?
        .query_row([&report.name], |row| row.get(0))
        .optional()?;
    if known.is_some_and(|known| known > at) {
        return Ok(());
    }
    let details = serde_json::to_string(&report.details).unwrap_or_default();
    db.prepare_cached(
        "INSERT INTO worker (name, first_seen_at, seen_at, is_online, report) VALUES (?1, ?2, ?2, ?3, ?4)
         ON CONFLICT (name) DO UPDATE SET seen_at = ?2, is_online = ?3, report = ?4",
    )?
    .execute((&report.name, at, report.is_online, details))?;
    Ok(())
}

/// All workers that have sent events, by name.
pub(super) fn list(db: &Connection, now: DateTime<Utc>) -> rusqlite::Result<Vec<SeenWorker>> {
    let mut select = db.prepare_cached(
        "SELECT name, first_seen_at, seen_at, is_online, report FROM worker ORDER BY name LIMIT 10000",
    )?;
    let workers = select.query_map([], |row| {
        let details: WorkerDetails = serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default();
        let seen_at = from_micros(row.get(2)?);
        let interval = details.freq.filter(|freq| freq.is_finite() && *freq > 0.0).unwrap_or(USUAL_INTERVAL);
        // A little longer than in Celery: the report has come through a queue and a file.
        let patience = TimeDelta::milliseconds((interval * MISSED * 1000.0).min(1e12) as i64 + 2000);
        Ok(SeenWorker {
            name: row.get(0)?,
            first_seen_at: from_micros(row.get(1)?),
            seen_at,
            is_online: row.get::<_, bool>(3)? && now - seen_at <= patience,
            details,
        })
    })?;
    workers.collect()
}
