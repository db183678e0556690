//! Failures, grouped by task and kind of error.

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use super::labels::Labels;
use super::rows::{self, from_micros};
use super::state::JobState;

/// How many of the newest failures are grouped.
const NEWEST: i64 = 20_000;

/// Failed calls of one task with one kind of error.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FailureGroup {
    /// The task's name, if its events report it.
    pub name: Option<String>,
    /// The kind of the error, such as `ValueError`.
    pub error_kind: Option<String>,
    /// How many of the newest 20,000 failures belong to this group.
    pub count: u64,
    /// How many of those are in a dead-letter queue.
    pub dead_lettered: u64,
    /// When the first of them failed.
    pub first_at: DateTime<Utc>,
    /// When the last of them failed.
    pub last_at: DateTime<Utc>,
    /// The id of the last of them.
    pub last_id: String,
    /// Its error.
    pub last_error: Option<String>,
}

/// The groups, the largest first.
pub(super) fn groups(db: &Connection, labels: &mut Labels) -> rusqlite::Result<Vec<FailureGroup>> {
    let mut select = db.prepare_cached(
        "WITH failed AS (
             SELECT seq, state, state_at, name, fault FROM (
                 SELECT * FROM (
                     SELECT seq, state, state_at, name, fault FROM job INDEXED BY job_failed
                     WHERE state = ?1 AND fault IS NOT NULL ORDER BY seq DESC LIMIT ?3
                 )
                 UNION ALL
                 SELECT * FROM (
                     SELECT seq, state, state_at, name, fault FROM job INDEXED BY job_failed
                     WHERE state = ?2 AND fault IS NOT NULL ORDER BY seq DESC LIMIT ?3
                 )
             ) ORDER BY seq DESC LIMIT ?3
         )
         SELECT name, fault, count(*), sum(state = ?2), min(state_at), max(state_at), max(seq)
         FROM failed GROUP BY name, fault ORDER BY count(*) DESC, max(seq) DESC LIMIT 500",
    )?;
    let codes = (JobState::Failure.code(), JobState::DeadLettered.code(), NEWEST);
    let found = select.query_map(codes, |row| {
        let group = FailureGroup {
            name: None,
            error_kind: None,
            count: row.get::<_, i64>(2)?.unsigned_abs(),
            dead_lettered: row.get::<_, i64>(3)?.unsigned_abs(),
            first_at: from_micros(row.get(4)?),
            last_at: from_micros(row.get(5)?),
            last_id: String::new(),
            last_error: None,
        };
        Ok((row.get::<_, Option<i64>>(0)?, row.get::<_, Option<i64>>(1)?, row.get::<_, i64>(6)?, group))
    })?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    let mut groups = Vec::with_capacity(found.len());
    for (name, fault, seq, mut group) in found {
        group.name = labels.text(db, name)?;
        group.error_kind = labels.text(db, fault)?;
        if let Some((_, job)) = rows::by_seq(db, labels, seq)? {
            group.last_error = job.error.or(job.reason);
            group.last_id = job.id;
        }
        groups.push(group);
    }
    Ok(groups)
}
