//! Purges and deletes queues, on request or once they are unused.

use std::rc::Rc;

use bytes::Bytes;
use rusqlite::{OptionalExtension, params};

use super::engine::{Engine, Sql};
use super::head;
use super::queue::QueueEntry;
use crate::error::{Error, Result};
use crate::message::headers::names;

/// When the next unused queue expires. Runs in every transaction while any queue can expire.
const NEXT_EXPIRY: &str = "SELECT min(used_at + expires) FROM queue q WHERE expires IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM consumer c WHERE c.queue = q.name)";

impl Engine {
    /// Restarts the expiry of a queue that expires when unused.
    pub(super) fn touch(&self, entry: &QueueEntry, now: i64) -> Sql<()> {
        if entry.definition.expires.is_some() {
            self.db.prepare_cached("UPDATE queue SET used_at = ? WHERE id = ?")?.execute([now, entry.id])?;
        }
        Ok(())
    }

    /// Handles the end of a consumer. An auto-delete queue is deleted with its last one.
    pub(super) fn consumer_left(&mut self, name: &str, now: i64) -> Sql<()> {
        let Some(entry) = self.queues.get(name) else { return Ok(()) };
        self.touch(&entry, now)?;
        let is_used: bool = self
            .db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM consumer WHERE queue = ?)")?
            .query_row([name], |row| row.get(0))?;
        if entry.definition.auto_delete && !is_used { self.delete(name) } else { Ok(()) }
    }

    /// When the next unused queue expires.
    pub(super) fn next_queue_expiry(&self) -> Sql<Option<i64>> {
        if !self.queues.has_expiring() {
            return Ok(None);
        }
        self.db.prepare_cached(NEXT_EXPIRY)?.query_row([], |row| row.get(0))
    }

    pub(super) fn delete_unused_queues(&mut self, now: i64) -> Sql<()> {
        if self.next_queue_expiry()?.is_none_or(|due| due > now) {
            return Ok(());
        }
        let names: Vec<String> = self
            .db
            .prepare_cached(
                "SELECT name FROM queue q WHERE used_at + expires <= ?
                 AND NOT EXISTS (SELECT 1 FROM consumer c WHERE c.queue = q.name)",
            )?
            .query_map([now], |row| row.get(0))?
            .collect::<Sql<_>>()?;
        names.iter().try_for_each(|name| self.delete(name))
    }

    pub(crate) fn purge(&mut self, name: &str) -> Sql<Result<u64>> {
        match self.queues.get(name) {
            Some(entry) => self.purge_entry(&entry).map(Ok),
            None => Ok(Err(Error::topology(format!(
                "cannot purge: there is no queue `{name}` in `{}`",
                self.path.display()
            )))),
        }
    }

    /// Releases the locks of unique tasks whose calls are purged.
    fn unlock_purged(&self, queue: i64) -> Sql<()> {
        let mut heads = self.db.prepare_cached(
            "SELECT head FROM message WHERE instr(head, ?2) AND id IN (SELECT id FROM ready WHERE queue = ?1
             UNION ALL SELECT id FROM delayed WHERE queue = ?1)",
        )?;
        let mut rows = heads.query(params![queue, names::UNIQUE])?;
        while let Some(row) = rows.next()? {
            let headers = head::decode(row.get_ref(0)?.as_str_or_null()?, Bytes::new()).headers;
            if let (Some(key), Some(holder)) = (headers.lock_key(), headers.id()) {
                self.unlock(key, holder)?;
            }
        }
        Ok(())
    }

    fn purge_entry(&mut self, entry: &QueueEntry) -> Sql<u64> {
        self.unlock_purged(entry.id)?;
        let run = |sql: &str| self.db.prepare_cached(sql)?.execute([entry.id]);
        let purged = run("DELETE FROM message WHERE id IN (SELECT id FROM ready WHERE queue = ?1
                          UNION ALL SELECT id FROM delayed WHERE queue = ?1)")?;
        run("DELETE FROM ready WHERE queue = ?")?;
        run("DELETE FROM delayed WHERE queue = ?")?;
        // A delivered message gets its row back when it is requeued.
        run("DELETE FROM expiring WHERE queue = ?")?;
        self.lengths.remove(&entry.id);
        Ok(purged as u64)
    }

    /// Deletes a queue. As on RabbitMQ, an unknown queue is not an error.
    pub(crate) fn delete(&mut self, name: &str) -> Sql<()> {
        self.queues.disown(name);
        let id: Option<i64> = self
            .db
            .prepare_cached("SELECT id FROM queue WHERE name = ?")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let (Some(id), Some(entry)) = (id, self.queues.get(name)) else { return Ok(()) };
        self.purge_entry(&entry)?;
        let db = Rc::clone(&self.db);
        let run = |sql: &str| db.prepare_cached(sql)?.execute([id]).map(drop);
        run("DELETE FROM message WHERE id IN (SELECT id FROM claimed WHERE queue = ?)")?;
        run("DELETE FROM claimed WHERE queue = ?")?;
        run("DELETE FROM queue WHERE id = ?")?;
        let bound: Vec<String> = db
            .prepare_cached("SELECT DISTINCT exchange FROM binding WHERE queue = ?")?
            .query_map([name], |row| row.get(0))?
            .collect::<Sql<_>>()?;
        db.prepare_cached("DELETE FROM binding WHERE queue = ?")?.execute([name])?;
        bound.iter().try_for_each(|exchange| self.delete_exchange_if_unbound(exchange))?;
        self.touch_generation()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::connection::sqlite::schema;

    #[test]
    fn the_next_expiry_does_not_scan_all_consumers() {
        let directory = tempfile::tempdir().expect("a directory");
        let db = schema::open(&directory.path().join("queue.db"), Instant::now() + Duration::from_secs(60));
        let db = db.expect("it opens");
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {NEXT_EXPIRY}")).expect("a statement");
        let steps = plan.query_map([], |row| row.get::<_, String>(3)).expect("a plan");
        let steps: Vec<String> = steps.collect::<Sql<_>>().expect("a plan");
        assert!(steps.iter().any(|step| step.contains("consumer_by_queue")), "{steps:?}");
    }
}
