//! Results of tasks: a table whose rows get a new, larger number with every change, so that a waiting process reads only
//! new rows, however many results it waits for.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use tokio::sync::oneshot;

use super::engine::{Changes, Engine, Sql, millis};
use super::job::{self, Job, Run};
use super::waiters::{RecordReceiver, Stored, WaitFor};

/// The maximum number of expired results that one transaction deletes.
const SWEEP_BATCH: i64 = 1000;

/// A result to store.
pub(crate) struct Storing {
    pub(crate) task_id: String,
    pub(crate) record: Vec<u8>,
    /// A final record is never overwritten.
    pub(crate) is_final: bool,
    pub(crate) expires: Option<Duration>,
    pub(crate) acked: Acked,
}

/// Where the task of a result is acked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Acked {
    /// In the same file. The ack follows in the same log: a power failure may undo both, and the task runs again, but never
    /// leaves an ack without its result. So there is no need to wait for the disk.
    Here,
    /// Somewhere else, where the ack may outlive the last commits of this file.
    Elsewhere,
}

/// Stores a record, unless a final one exists.
pub(crate) fn store(storing: Storing) -> Job<(), impl Run<()>> {
    let is_promise = storing.is_final && storing.acked == Acked::Elsewhere;
    let job = job::write("store a result", move |engine, now, changes| {
        engine.store(&storing, now, changes).map(Ok)
    });
    if is_promise { job } else { job.lazily() }
}

/// Deletes the result of a task.
pub(crate) fn forget(task_id: String) -> Job<(), impl Run<()>> {
    job::write("delete a result", move |engine, _, _| {
        let mut delete = engine.db.prepare_cached("DELETE FROM result WHERE task_id = ?")?;
        delete.execute([&task_id]).map(drop).map(Ok)
    })
}

impl Engine {
    fn store(&mut self, storing: &Storing, now: i64, changes: &mut Changes) -> Sql<()> {
        let Storing { task_id, record, is_final, expires, .. } = storing;
        let expires_at = expires.map(|expires| now.saturating_add(millis(expires)));
        // Most tasks have no record yet.
        let is_stored = self
            .db
            .prepare_cached(
                "INSERT OR IGNORE INTO result (task_id, is_final, expires_at, record) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![task_id, is_final, expires_at, record])?;
        if is_stored == 0 && !self.overwrite(storing, expires_at, now)? {
            return Ok(());
        }
        let seq = self.db.last_insert_rowid();
        if self.waiters.has_waiter_for(task_id) {
            let (task_id, record) = (task_id.clone(), record.clone());
            changes.stored.push(Stored { task_id, seq, is_final: *is_final, record });
        }
        changes.rings = true;
        Ok(())
    }

    /// Replaces a record, under a new number. Returns false if the old one is final.
    fn overwrite(&self, storing: &Storing, expires_at: Option<i64>, now: i64) -> Sql<bool> {
        let Storing { task_id, record, is_final, .. } = storing;
        let known: Option<bool> = self
            .db
            .prepare_cached(
                "SELECT is_final FROM result WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| row.get(0))
            .optional()?;
        if known == Some(true) {
            return Ok(false);
        }
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO result (task_id, is_final, expires_at, record) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![task_id, is_final, expires_at, record])?;
        Ok(true)
    }

    pub(crate) fn fetch(&self, task_id: &str, now: i64) -> Sql<Option<Vec<u8>>> {
        self.db
            .prepare_cached(
                "SELECT record FROM result WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| row.get(0))
            .optional()
    }

    /// Waits for a record of a task, which may exist already.
    pub(crate) fn wait(&mut self, task_id: &str, news: WaitFor, now: i64) -> Sql<RecordReceiver> {
        self.listen();
        let (reply, coming) = oneshot::channel();
        match self.known(task_id, now)? {
            Some(stored) if news.is(stored.seq, stored.is_final) => {
                drop(reply.send(Ok((stored.seq, stored.record))));
            }
            _ => self.waiters.add(task_id, news, reply),
        }
        Ok(coming)
    }

    fn known(&mut self, task_id: &str, now: i64) -> Sql<Option<Stored>> {
        if self.waiters.is_empty() {
            // Read before the record: everything stored later is news.
            self.waiters.seen = self
                .db
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM result")?
                .query_row([], |row| row.get(0))?;
        }
        self.db
            .prepare_cached(
                "SELECT seq, is_final, record FROM result
                 WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| {
                let (seq, is_final, record) = (row.get(0)?, row.get(1)?, row.get(2)?);
                Ok(Stored { task_id: task_id.to_owned(), seq, is_final, record })
            })
            .optional()
    }

    /// Passes results stored by other processes to callers that wait for them.
    pub(super) fn read_news(&mut self) -> Sql<()> {
        if self.waiters.is_empty() {
            return Ok(());
        }
        let db = std::rc::Rc::clone(&self.db);
        let mut statement =
            db.prepare_cached("SELECT seq, task_id, is_final FROM result WHERE seq > ? ORDER BY seq")?;
        let mut rows = statement.query([self.waiters.seen])?;
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            let task_id = row.get_ref(1)?.as_str()?;
            if self.waiters.has_waiter_for(task_id) {
                let record: Vec<u8> = db
                    .prepare_cached("SELECT record FROM result WHERE seq = ?")?
                    .query_row([seq], |row| row.get(0))?;
                let task_id = task_id.to_owned();
                self.waiters.answer(&Stored { task_id, seq, is_final: row.get(2)?, record });
            }
            self.waiters.seen = seq;
        }
        Ok(())
    }

    /// Deletes a batch of expired results, and returns their number.
    pub(super) fn sweep_results(&mut self, now: i64) -> Sql<usize> {
        self.db
            .prepare_cached(
                "DELETE FROM result WHERE seq IN
                 (SELECT seq FROM result WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            )?
            .execute([now, SWEEP_BATCH])
    }
}
