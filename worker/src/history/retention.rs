//! Deletes old entries, and the oldest calls if there are too many.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rusqlite::Connection;

use super::rows::micros;
use super::tallies::SPANS;
use crate::tracing::warn;

/// How many calls one step deletes: recording waits for one step at most.
const STEP: i64 = 1000;
/// How often the calls are counted: a count reads a whole index.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// How long counters of minutes are kept, even if calls are kept longer.
const MINUTES_KEEP: TimeDelta = TimeDelta::days(3);
/// How long counters of hours are kept at least.
const HOURS_KEEP: TimeDelta = TimeDelta::days(90);
/// How long a worker that is gone is remembered.
const WORKERS_KEEP: TimeDelta = TimeDelta::days(1);

/// How far the clock may jump before it is distrusted.
const JUMP: TimeDelta = TimeDelta::hours(1);
/// How long nothing is deleted by age after a clock jump: the clock may be wrong and be corrected again.
const DOUBT: Duration = Duration::from_secs(60 * 60);

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Calls are deleted when their first event is older than this.
    pub keep: Duration,
    /// If there are more calls than this, the oldest are deleted.
    pub max_rows: u64,
}

impl Default for Retention {
    /// 7 days and 10 million calls.
    fn default() -> Self {
        Self { keep: Duration::from_secs(7 * 24 * 3600), max_rows: 10_000_000 }
    }
}

/// Checks whether the clock can be trusted: one that is a year ahead for a minute must not wipe the history.
#[derive(Debug, Default)]
pub(super) struct Clock {
    last: Option<(Instant, DateTime<Utc>)>,
    doubted: Option<Instant>,
}

impl Clock {
    /// True if the clock has kept pace with elapsed time for a while.
    pub(super) fn is_steady(&mut self, passed: Instant, now: DateTime<Utc>) -> bool {
        if let Some((since, then)) = self.last.replace((passed, now)) {
            let expected = TimeDelta::from_std(passed.saturating_duration_since(since)).unwrap_or_default();
            if (now - then - expected).abs() > JUMP {
                warn!(from = %then, to = %now, "the clock has jumped: the history deletes nothing for its age for an hour");
                self.doubted = Some(passed);
            }
        }
        self.doubted.is_none_or(|doubted| passed.saturating_duration_since(doubted) >= DOUBT)
    }
}

/// How many calls there are, cached so that not every step has to count them.
#[derive(Debug, Default)]
pub(super) struct RowCount(Option<(DateTime<Utc>, i64)>);

/// Deletes some of the calls beyond the limits. True if there may be more.
pub(super) fn step(
    db: &Connection,
    retention: &Retention,
    count: &mut RowCount,
    clock: &mut Clock,
    now: DateTime<Utc>,
) -> rusqlite::Result<bool> {
    let is_steady = clock.is_steady(Instant::now(), now);
    let age = TimeDelta::from_std(retention.keep).unwrap_or(TimeDelta::MAX);
    let horizon = now.checked_sub_signed(age).filter(|_| is_steady).map_or(i64::MIN, micros);
    let rows = count.rows(db, now)?;
    let mut deleted = delete(db, "SELECT seq FROM job WHERE seq < ?1 ORDER BY seq LIMIT ?2", horizon, STEP)?;
    count.subtract(deleted);
    let surplus = rows - deleted - i64::try_from(retention.max_rows).unwrap_or(i64::MAX);
    let room = surplus.min(STEP - deleted);
    if room > 0 {
        let more = delete(db, "SELECT seq FROM job WHERE ?1 = 0 ORDER BY seq LIMIT ?2", 0, room)?;
        count.subtract(more);
        deleted += more;
    }
    if !is_steady {
        return Ok(deleted >= STEP);
    }
    let older = |keep: TimeDelta| (now - keep).timestamp();
    for (span, keep) in SPANS.into_iter().zip([MINUTES_KEEP, HOURS_KEEP.max(age)]) {
        let horizon = now.checked_sub_signed(keep).map_or(i64::MIN, |time| time.timestamp());
        db.prepare_cached("DELETE FROM tally WHERE span = ?1 AND at < ?2")?.execute((span, horizon))?;
    }
    db.prepare_cached("DELETE FROM worker WHERE seen_at < ?1")?.execute([older(WORKERS_KEEP) * 1_000_000])?;
    Ok(deleted >= STEP)
}

fn delete(db: &Connection, select: &str, horizon: i64, limit: i64) -> rusqlite::Result<i64> {
    let places: Vec<i64> = db
        .prepare_cached(select)?
        .query_map((horizon, limit), |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let (Some(first), Some(last)) = (places.first(), places.last()) else { return Ok(0) };
    db.prepare_cached("DELETE FROM words WHERE rowid BETWEEN ?1 AND ?2")?.execute((first, last))?;
    db.prepare_cached("DELETE FROM job WHERE seq BETWEEN ?1 AND ?2")?.execute((first, last))?;
    // No other row lies between the places that were found.
    Ok(i64::try_from(places.len()).unwrap_or(i64::MAX))
}

impl RowCount {
    fn rows(&mut self, db: &Connection, now: DateTime<Utc>) -> rusqlite::Result<i64> {
        let every = TimeDelta::from_std(COUNT_EVERY).unwrap_or_default();
        if let Some((at, rows)) = self.0
            && (now - at).abs() < every
        {
            return Ok(rows);
        }
        // Reads the smallest index.
        let rows =
            db.query_row("SELECT count(*) FROM job INDEXED BY job_by_state WHERE state >= 0", [], |row| {
                row.get(0)
            })?;
        self.0 = Some((now, rows));
        Ok(rows)
    }

    fn subtract(&mut self, deleted: i64) {
        if let Some((_, rows)) = &mut self.0 {
            *rows -= deleted;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumps_is_doubted_for_an_hour() {
        let (mut clock, begun, start) = (Clock::default(), Instant::now(), Utc::now());
        let mut at = |seconds: u64, ahead: TimeDelta| {
            let passed = Duration::from_secs(seconds);
            clock.is_steady(begun + passed, start + TimeDelta::from_std(passed).expect("short") + ahead)
        };
        let (right, wrong) = (TimeDelta::seconds(2), TimeDelta::days(365));
        assert!(at(0, TimeDelta::zero()) && at(10, right));
        assert!(!at(20, wrong) && !at(30, right) && !at(3600, right));
        assert!(at(3640, right));
        assert!(!at(3650, -wrong), "back is a jump too");
    }
}
