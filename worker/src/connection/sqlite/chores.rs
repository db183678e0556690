//! Work that needs no job, when it is due, and the check for changes by other processes.

use std::time::{Duration, Instant};

use rusqlite::OptionalExtension;

use super::consumer::Consumer;
use super::engine::{Bell, Engine, Sql, now_ms};

/// How often to check whether another process has committed, in case a ring of the bell was missed, and whether the file
/// still exists.
const LOOK: Duration = Duration::from_millis(500);
/// The same without a bell: a check takes some microseconds.
const LOOK_WITHOUT_BELL: Duration = Duration::from_millis(5);
/// How often expired results are deleted.
const SWEEP: Duration = Duration::from_secs(30);

impl Engine {
    /// True if there is something to write even without a job.
    pub(super) fn has_chores(&self) -> bool {
        let is_due = self.next_due.is_some_and(|due| due <= now_ms());
        !self.verdicts.is_empty() || self.may_claim || is_due || self.lease.is_beat_due()
    }

    /// How long the thread may sleep if nothing arrives.
    pub(super) fn patience(&self) -> Duration {
        if self.has_chores() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut patience = Duration::from_secs(60);
        if self.has_listeners() {
            patience = patience.min(self.next_look.saturating_duration_since(now));
        }
        if let Some(beat) = self.lease.next_beat() {
            patience = patience.min(beat.saturating_duration_since(now));
        }
        if let Some(due) = self.next_due {
            patience = patience.min(Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0)));
        }
        patience
    }

    /// Checks for changes by other processes, if one has rung the bell or the interval is over.
    pub(super) fn look(&mut self, was_rung: bool) -> Sql<()> {
        let now = Instant::now();
        if !was_rung && (now < self.next_look || !self.has_listeners()) {
            return Ok(());
        }
        self.next_look = now + if matches!(self.bell, Bell::Broken) { LOOK_WITHOUT_BELL } else { LOOK };
        self.waiters.forget_gone();
        if self.consumers.iter().any(Consumer::is_closed) {
            self.may_claim = true;
        }
        let version = self.data_version()?;
        if version == self.looked_version {
            return Ok(());
        }
        self.looked_version = version;
        self.next_due = self.find_next_due()?;
        self.may_claim = self.may_claim || self.could_claim()?;
        self.read_news()
    }

    /// Deletes expired rows, a few at a time.
    pub(super) fn sweep(&mut self, now: i64) -> Sql<()> {
        let clock = Instant::now();
        if clock < self.next_sweep {
            return Ok(());
        }
        self.next_sweep = clock + SWEEP;
        let deleted = self.sweep_results(now)? + self.sweep_registers(now)?;
        if deleted > 0 {
            // There may be more: the next transaction continues.
            self.next_sweep = clock;
        }
        Ok(())
    }

    /// The earliest time at which a delay ends, or a message or a queue expires.
    pub(super) fn find_next_due(&self) -> Sql<Option<i64>> {
        let first = |sql: &str| -> Sql<Option<i64>> {
            self.db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()
        };
        let delayed = first("SELECT at FROM delayed ORDER BY at LIMIT 1")?;
        let expiring = first("SELECT at FROM expiring ORDER BY at LIMIT 1")?;
        Ok([delayed, expiring, self.next_queue_expiry()?].into_iter().flatten().min())
    }
}
