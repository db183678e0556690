//! Owners: the processes that hold claims, and whether they are alive.

use std::time::{Duration, Instant};

use rusqlite::params;

use super::busy;
use super::engine::{Changes, Engine, Sql, now_ms};
use super::failure::is_busy;
use crate::tracing;

/// The age in milliseconds of a beat after which the consumers and claims of its owner are no longer counted. For display
/// only, since it compares clocks.
pub(super) const SHOWN_FOR: i64 = 6_000;
/// How long leaving may wait for a lock. After that the lease is left to expire.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

impl Engine {
    /// Returns the owner row of this process. The first call creates it.
    pub(super) fn join(&mut self, changes: &mut Changes) -> Sql<i64> {
        if let Some(id) = self.lease.id() {
            return Ok(id);
        }
        let uuid = uuid::Uuid::new_v4().to_string();
        self.db.prepare_cached("INSERT INTO owner (uuid, pid, beat) VALUES (?, ?, ?)")?.execute(params![
            uuid,
            std::process::id(),
            now_ms()
        ])?;
        let id = self.db.last_insert_rowid();
        self.lease.has_joined(id);
        changes.joined = true;
        changes.beat = true;
        Ok(id)
    }

    /// Writes a heartbeat if it is due, before anything else in a transaction: an owner with a heartbeat in the last second
    /// has not expired, and one that has expired finds out here, before a verdict or a claim could go wrong.
    pub(super) fn keep_lease(&mut self, now: i64, changes: &mut Changes) -> Sql<()> {
        let is_due = self.lease.is_beat_due();
        self.lease.begin();
        if is_due && let Some(id) = self.lease.id() {
            let alive = self
                .db
                .prepare_cached("UPDATE owner SET beat = max(beat + 1, ?) WHERE id = ?")?
                .execute([now, id])?;
            if alive == 1 {
                changes.beat = true;
                self.release_dead_owners(id, changes)?;
            } else {
                self.lose_lease();
            }
        }
        if self.lease.id().is_none() && (!self.consumers.is_empty() || self.queues.has_exclusive()) {
            self.rejoin(now, changes)?;
        }
        Ok(())
    }

    fn lose_lease(&mut self) {
        tracing::warn!(
            path = %self.path.display(), messages = self.claims.len(),
            "this process did not renew its lease in time: its messages were redelivered to others"
        );
        self.lease.forget();
        self.lease.begin();
        self.claims.clear();
        self.consumers.iter_mut().for_each(|consumer| consumer.has_lost_all());
    }

    /// Restores the consumers and exclusive queues of this process after a lost lease.
    fn rejoin(&mut self, now: i64, changes: &mut Changes) -> Sql<()> {
        let owner = self.join(changes)?;
        self.declare_exclusive_again(owner, now)?;
        let consumers = self.consumers.iter();
        let known: Vec<_> =
            consumers.map(|consumer| (consumer.id, consumer.queues.clone(), consumer.name.clone())).collect();
        for (id, queues, name) in known {
            for queue in queues {
                self.write_consumer(owner, id, &queue, &name)?;
            }
        }
        Ok(())
    }

    pub(super) fn write_consumer(&self, owner: i64, id: u64, queue: &str, name: &str) -> Sql<()> {
        self.db
            .prepare_cached("INSERT OR IGNORE INTO consumer (owner, id, queue, name) VALUES (?, ?, ?, ?)")?
            .execute(params![owner, id as i64, queue, name])
            .map(drop)
    }

    fn release_dead_owners(&mut self, own: i64, changes: &mut Changes) -> Sql<()> {
        let neighbours: Vec<(i64, i64)> = self
            .db
            .prepare_cached("SELECT id, beat FROM owner WHERE id <> ?")?
            .query_map([own], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Sql<_>>()?;
        busy::share_lock_with(neighbours.len() + 1);
        for id in self.lease.expired_neighbours(&neighbours) {
            tracing::warn!(owner = id, path = %self.path.display(), "a process died: its messages are redelivered");
            self.release(id, true, changes)?;
        }
        Ok(())
    }

    /// Requeues all messages of an owner, and raises their crash counts if it crashed.
    pub(super) fn release(&mut self, owner: i64, is_crash: bool, changes: &mut Changes) -> Sql<()> {
        let db = std::rc::Rc::clone(&self.db);
        db.prepare_cached(
            "INSERT INTO ready (queue, rank, id, redelivered, crashes)
             SELECT queue, rank, id, 1, crashes + ? FROM claimed WHERE owner = ?",
        )?
        .execute(params![is_crash, owner])?;
        db.prepare_cached(
            "INSERT OR IGNORE INTO expiring (at, id, queue, rank)
             SELECT m.expires_at, m.id, c.queue, c.rank FROM claimed c JOIN message m ON m.id = c.id
             WHERE c.owner = ? AND m.expires_at IS NOT NULL",
        )?
        .execute([owner])?;
        db.prepare_cached("DELETE FROM claimed WHERE owner = ?")?.execute([owner])?;
        let names = |sql: &str| -> Sql<Vec<String>> {
            db.prepare_cached(sql)?.query_map([owner], |row| row.get(0))?.collect()
        };
        let consumed = names("SELECT DISTINCT queue FROM consumer WHERE owner = ?")?;
        let exclusive = names("SELECT name FROM queue WHERE owner = ?")?;
        db.prepare_cached("DELETE FROM consumer WHERE owner = ?")?.execute([owner])?;
        db.prepare_cached("DELETE FROM owner WHERE id = ?")?.execute([owner])?;
        for queue in exclusive {
            self.delete(&queue)?;
        }
        for queue in consumed {
            self.consumer_left(&queue, now_ms())?;
        }
        self.lengths.clear();
        changes.rings = true;
        Ok(())
    }

    /// Writes all verdicts and requeues the other claims, after the last handle was dropped.
    pub(super) fn leave(&mut self) {
        let deadline = Instant::now() + LEAVE_WITHIN;
        while self.lease.id().is_some() {
            let mut changes = Changes::default();
            match self.leave_once(&mut changes) {
                Ok(()) => return super::bell::ring(&self.path),
                Err(error) => {
                    self.undo(&changes);
                    if !is_busy(&error) || Instant::now() >= deadline {
                        tracing::warn!(%error, path = %self.path.display(), "cannot requeue claimed messages");
                        return;
                    }
                }
            }
        }
    }

    fn leave_once(&mut self, changes: &mut Changes) -> Sql<()> {
        self.run("BEGIN IMMEDIATE")?;
        self.queues.suspect();
        self.refresh_queues()?;
        self.settle_verdicts(changes)?;
        if let Some(owner) = self.lease.id() {
            self.release(owner, false, changes)?;
        }
        self.run("COMMIT")
    }
}
