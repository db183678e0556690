//! Notes on tasks, and locks: rows that lapse.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use super::engine::{Engine, Sql, millis};

/// How many rows that have lapsed one transaction deletes.
const SWEEP_BATCH: i64 = 1000;

/// What is noted of an id.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) id: String,
    /// In milliseconds since 1970.
    pub(crate) until: i64,
    pub(crate) by_force: bool,
}

impl Engine {
    /// Notes an id; what was noted of it before makes room, so that who reads on sees it again, and leaves its force.
    pub(crate) fn note(&self, register: &str, noted: &Noted, now: i64) -> Sql<()> {
        let Noted { id, until, by_force } = noted;
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO note (register, id, until, by_force) VALUES (?1, ?2, ?3, ?4 OR EXISTS
                     (SELECT 1 FROM note WHERE register = ?1 AND id = ?2 AND by_force AND until > ?5))",
            )?
            .execute(params![register, id, until, by_force, now])
            .map(drop)
    }

    /// What was noted after a number and still holds, and the number to go on from.
    pub(crate) fn notes(&self, register: &str, after: u64, now: i64) -> Sql<(Vec<Noted>, u64)> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        // First: what is noted in between is read next time too.
        let next: i64 = self
            .db
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM note")?
            .query_row([], |row| row.get(0))?;
        let mut statement = self.db.prepare_cached(
            "SELECT id, until, by_force FROM note WHERE seq > ? AND register = ? AND until > ? ORDER BY seq",
        )?;
        let noted = |row: &Row<'_>| Ok(Noted { id: row.get(0)?, until: row.get(1)?, by_force: row.get(2)? });
        let rows = statement.query_map(params![after, register, now], noted)?;
        Ok((rows.collect::<Sql<_>>()?, next.max(after).unsigned_abs()))
    }

    pub(crate) fn is_noted(&self, register: &str, id: &str, now: i64) -> Sql<bool> {
        self.db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM note WHERE register = ? AND id = ? AND until > ?)")?
            .query_row(params![register, id, now], |row| row.get(0))
    }

    /// Takes or extends a lock; returns another holder that has it.
    pub(crate) fn lock(&self, key: &str, holder: &str, lifetime: Duration, now: i64) -> Sql<Option<String>> {
        let until = now.saturating_add(millis(lifetime));
        let held: Option<String> = self
            .db
            .prepare_cached("SELECT holder FROM lock WHERE key = ? AND until > ?")?
            .query_row(params![key, now], |row| row.get(0))
            .optional()?;
        if held.as_deref().is_some_and(|other| other != holder) {
            return Ok(held);
        }
        self.db
            .prepare_cached(
                "INSERT INTO lock (key, holder, until) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE
                     SET until = iif(holder = ?2, max(until, ?3), ?3), holder = ?2",
            )?
            .execute(params![key, holder, until])?;
        Ok(None)
    }

    pub(crate) fn unlock(&self, key: &str, holder: &str) -> Sql<()> {
        self.db
            .prepare_cached("DELETE FROM lock WHERE key = ? AND holder = ?")?
            .execute([key, holder])
            .map(drop)
    }

    /// Deletes what has lapsed, some at a time; says how much.
    pub(super) fn sweep_memos(&self, now: i64) -> Sql<usize> {
        let notes = self
            .db
            .prepare_cached(
                "DELETE FROM note WHERE seq IN (SELECT seq FROM note WHERE until <= ? ORDER BY until LIMIT ?)",
            )?
            .execute([now, SWEEP_BATCH])?;
        let locks = self
            .db
            .prepare_cached(
                "DELETE FROM lock WHERE key IN (SELECT key FROM lock WHERE until <= ? ORDER BY until LIMIT ?)",
            )?
            .execute([now, SWEEP_BATCH])?;
        Ok(notes + locks)
    }
}
