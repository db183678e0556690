//! Notes on tasks, and locks: rows that expire.

use std::time::Duration;

use rusqlite::{OptionalExtension, Row, params};

use super::engine::{Engine, Sql, millis};

/// The maximum number of expired rows that one transaction deletes from each table.
const SWEEP_BATCH: i64 = 1000;

/// A note on an id.
#[derive(Debug)]
pub(crate) struct NoteRow {
    pub(crate) id: String,
    /// In milliseconds since 1970.
    pub(crate) until: i64,
    pub(crate) terminate: bool,
}

impl Engine {
    /// Records an id. It replaces an earlier note under a new number, so that readers see it again, and inherits its
    /// `terminate` if that has not expired.
    pub(crate) fn note(&self, register: &str, noted: &NoteRow, now: i64) -> Sql<()> {
        let NoteRow { id, until, terminate } = noted;
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO note (register, id, until, by_force) VALUES (?1, ?2, ?3, ?4 OR EXISTS
                     (SELECT 1 FROM note WHERE register = ?1 AND id = ?2 AND by_force AND until > ?5))",
            )?
            .execute(params![register, id, until, terminate, now])
            .map(drop)
    }

    /// Returns the unexpired notes after a number, and the number to continue from.
    pub(crate) fn notes(&self, register: &str, after: u64, now: i64) -> Sql<(Vec<NoteRow>, u64)> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        // Read before the notes: one recorded in between is returned again next time.
        let next: i64 = self
            .db
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM note")?
            .query_row([], |row| row.get(0))?;
        let mut statement = self.db.prepare_cached(
            "SELECT id, until, by_force FROM note WHERE seq > ? AND register = ? AND until > ? ORDER BY seq",
        )?;
        let noted =
            |row: &Row<'_>| Ok(NoteRow { id: row.get(0)?, until: row.get(1)?, terminate: row.get(2)? });
        let rows = statement.query_map(params![after, register, now], noted)?;
        Ok((rows.collect::<Sql<_>>()?, next.max(after).unsigned_abs()))
    }

    pub(crate) fn is_noted(&self, register: &str, id: &str, now: i64) -> Sql<bool> {
        self.db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM note WHERE register = ? AND id = ? AND until > ?)")?
            .query_row(params![register, id, now], |row| row.get(0))
    }

    /// Takes or extends a lock. Returns the holder if another one has it.
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

    /// Deletes a batch of expired notes and locks, and returns their number.
    pub(super) fn sweep_registers(&self, now: i64) -> Sql<usize> {
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
