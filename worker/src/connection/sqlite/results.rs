//! Results of tasks: a table whose rows get a new, larger number with every change, so that a process that waits
//! reads only what is new, however many it waits for.

use std::collections::HashMap;
use std::time::Duration;

use rusqlite::{OptionalExtension, params};
use tokio::sync::oneshot;

use super::engine::{Changes, Engine, Sql, millis};
use super::job::{self, Job, Run};
use crate::error::{Error, Result};

/// How many expired results one transaction deletes.
const SWEEP_BATCH: i64 = 1000;

/// A record that is not there yet.
pub(crate) type Coming = oneshot::Receiver<Result<Vec<u8>>>;

/// A result to store.
pub(crate) struct Storing {
    pub(crate) task_id: String,
    pub(crate) record: Vec<u8>,
    /// A final record is never overwritten.
    pub(crate) is_final: bool,
    pub(crate) expires: Option<Duration>,
}

/// Stores a record; the first final one stays.
pub(crate) fn store(storing: Storing) -> Job<(), impl Run<()>> {
    let is_final = storing.is_final;
    let job = job::write("store a result", move |engine, now, changes| {
        engine.store(&storing, now, changes).map(Ok)
    });
    if is_final { job } else { job.lazily() }
}

/// Who waits for which task, in this process.
#[derive(Default)]
pub(super) struct Waiters {
    by_task: HashMap<String, Vec<oneshot::Sender<Result<Vec<u8>>>>>,
    /// The changes up to this one were looked at.
    seen: i64,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }

    /// Answers all who wait for a task.
    pub(super) fn finish(&mut self, task_id: &str, record: &[u8]) {
        for reply in self.by_task.remove(task_id).unwrap_or_default() {
            let _ = reply.send(Ok(record.to_vec()));
        }
    }

    /// Answers all, since nothing will come any more.
    pub(super) fn fail(&mut self, error: impl Fn() -> Error) {
        for reply in self.by_task.drain().flat_map(|(_, replies)| replies) {
            let _ = reply.send(Err(error()));
        }
    }

    /// Forgets those whose time-out has passed.
    pub(super) fn forget_gone(&mut self) {
        self.by_task.retain(|_, replies| {
            replies.retain(|reply| !reply.is_closed());
            !replies.is_empty()
        });
    }
}

impl Engine {
    fn store(&mut self, storing: &Storing, now: i64, changes: &mut Changes) -> Sql<()> {
        let Storing { task_id, record, is_final, expires } = storing;
        let known: Option<bool> = self
            .db
            .prepare_cached(
                "SELECT is_final FROM result WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| row.get(0))
            .optional()?;
        if known == Some(true) {
            return Ok(());
        }
        let expires_at = expires.map(|expires| now.saturating_add(millis(expires)));
        self.db
            .prepare_cached(
                "INSERT OR REPLACE INTO result (task_id, is_final, expires_at, record) VALUES (?, ?, ?, ?)",
            )?
            .execute(params![task_id, is_final, expires_at, record])?;
        if *is_final {
            changes.finished.push((task_id.clone(), record.clone()));
            changes.rings = true;
        }
        Ok(())
    }

    pub(crate) fn fetch(&self, task_id: &str, now: i64) -> Sql<Option<Vec<u8>>> {
        self.db
            .prepare_cached(
                "SELECT record FROM result WHERE task_id = ? AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| row.get(0))
            .optional()
    }

    /// Waits for the final record of a task, which may be there already.
    pub(crate) fn wait(&mut self, task_id: &str, now: i64) -> Sql<Coming> {
        self.listen();
        let (reply, coming) = oneshot::channel();
        match self.ready_record(task_id, now)? {
            Some(record) => drop(reply.send(Ok(record))),
            None => self.waiters.by_task.entry(task_id.to_owned()).or_default().push(reply),
        }
        Ok(coming)
    }

    fn ready_record(&mut self, task_id: &str, now: i64) -> Sql<Option<Vec<u8>>> {
        if self.waiters.is_empty() {
            // Before the record is looked for: what comes after this is news.
            self.waiters.seen = self
                .db
                .prepare_cached("SELECT coalesce(max(seq), 0) FROM result")?
                .query_row([], |row| row.get(0))?;
        }
        self.db
            .prepare_cached(
                "SELECT record FROM result
                 WHERE task_id = ? AND is_final AND (expires_at IS NULL OR expires_at > ?)",
            )?
            .query_row(params![task_id, now], |row| row.get(0))
            .optional()
    }

    /// Checks whether other processes have stored results that are awaited here.
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
            if row.get(2)? && self.waiters.by_task.contains_key(task_id) {
                let record: Vec<u8> = db
                    .prepare_cached("SELECT record FROM result WHERE seq = ?")?
                    .query_row([seq], |row| row.get(0))?;
                self.waiters.finish(task_id, &record);
            }
            self.waiters.seen = seq;
        }
        Ok(())
    }

    /// Deletes results that have expired, some at a time; says how many.
    pub(super) fn sweep_results(&mut self, now: i64) -> Sql<usize> {
        self.db
            .prepare_cached(
                "DELETE FROM result WHERE seq IN
                 (SELECT seq FROM result WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            )?
            .execute([now, SWEEP_BATCH])
    }
}
