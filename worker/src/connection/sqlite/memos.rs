//! Notes on tasks, and locks: rows that lapse.

use rusqlite::{OptionalExtension, params};

use super::engine::{Engine, Sql};

/// How many rows that have lapsed one transaction deletes.
const SWEEP_BATCH: i64 = 1000;

impl Engine {
    /// Notes an id; what was noted of it before makes room, so that who reads on sees it again, and leaves its force.
    pub(super) fn note(&self, register: &str, id: &str, until: i64, by_force: bool, now: i64) -> Sql<()> {
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO note (register, id, until, by_force) VALUES (?1, ?2, ?3, ?4 OR EXISTS
                     (SELECT 1 FROM note WHERE register = ?1 AND id = ?2 AND by_force AND until > ?5))",
            )?
            .execute(params![register, id, until, by_force, now])
            .map(drop)
    }

    /// The ids that were noted after a number and still hold, with their ends and whether force is meant, and the number
    /// to go on from.
    pub(super) fn notes(&self, register: &str, after: i64, now: i64) -> Sql<(Vec<(String, i64, bool)>, i64)> {
        // First: what is noted in between is read next time too.
        let next: i64 = self
            .db
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM note")?
            .query_row([], |row| row.get(0))?;
        let mut statement = self.db.prepare_cached(
            "SELECT id, until, by_force FROM note WHERE seq > ? AND register = ? AND until > ? ORDER BY seq",
        )?;
        let rows = statement.query_map(params![after, register, now], |row| row.try_into())?;
        Ok((rows.collect::<Sql<_>>()?, next.max(after)))
    }

    pub(super) fn is_noted(&self, register: &str, id: &str, now: i64) -> Sql<bool> {
        self.db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM note WHERE register = ? AND id = ? AND until > ?)")?
            .query_row(params![register, id, now], |row| row.get(0))
    }

    /// Takes a lock; somebody else who has it is the answer.
    pub(super) fn lock(&self, key: &str, holder: &str, until: i64, now: i64) -> Sql<Option<String>> {
        let held: Option<String> = self
            .db
            .prepare_cached("SELECT holder FROM lock WHERE key = ? AND until > ?")?
            .query_row(params![key, now], |row| row.get(0))
            .optional()?;
        if held.is_none() {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO lock (key, holder, until) VALUES (?, ?, ?)")?
                .execute(params![key, holder, until])?;
        }
        Ok(held.filter(|other| other != holder))
    }

    pub(super) fn unlock(&self, key: &str, holder: &str) -> Sql<()> {
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
