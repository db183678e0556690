//! Claims messages and settles them.
//!
//! A claim is a row in `claimed` with its owner and a token that no other batch of claims has. Settling names both, so
//! that a verdict after a lost lease has no effect.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::params;

use super::claim::{Claim, ClaimEnd, Claimed};
use super::consumer::Consumer;
use super::engine::{Changes, Engine, Sql, millis, now_ms};
use super::job::{self, Job, Run};
use super::messages::Reason;
use super::queue::QueueEntry;
use super::{fresh_id, head};
use crate::error::{Error, Result};

/// The total size at which a request for many messages stops: all of them might not fit into memory.
const GET_BYTES: usize = 16 << 20;

/// Takes up to `most` messages out of a queue. They are requeued if the caller has gone.
pub(crate) fn get(client: u64, queue: String, most: usize) -> Job<Vec<Claimed>, impl Run<Vec<Claimed>>> {
    job::write("get a message", move |engine, now, changes| engine.get(client, &queue, most, now, changes))
        .lazily()
        .after_verdicts()
        .on_caller_gone(|engine, claimed| {
            engine.verdicts.extend(claimed.into_iter().map(|claimed| (claimed.tag, ClaimEnd::Requeue)));
        })
}

/// Answers once all earlier verdicts are written.
pub(crate) fn flush() -> Job<(), impl Run<()>> {
    job::write("write acknowledgements", |_, _, _| Ok(Ok(()))).lazily().after_verdicts()
}

/// Closes a client of this file: ends its consumers and claims, and deletes its exclusive queues.
pub(crate) fn close(client: u64) -> Job<(), impl Run<()>> {
    job::write("close", move |engine, _, changes| engine.close(client, changes).map(Ok))
        .lazily()
        .after_verdicts()
        .run_without_caller()
}

impl Engine {
    /// Ends the consumers and claims of a client, and deletes its exclusive queues.
    fn close(&mut self, client: u64, changes: &mut Changes) -> Sql<()> {
        let now = now_ms();
        let mine =
            self.consumers.iter().filter(|consumer| consumer.client == client).map(|consumer| consumer.id);
        for consumer in mine.collect::<Vec<_>>() {
            self.end_consumer(consumer, now, changes)?;
        }
        let open = |(tag, claim): (&u64, &Claim)| {
            (claim.client == client && !changes.settled.contains(tag)).then_some(*tag)
        };
        for tag in self.claims.iter().filter_map(open).collect::<Vec<_>>() {
            self.settle(tag, ClaimEnd::Requeue, changes)?;
        }
        for queue in self.queues.exclusive_of(client) {
            self.delete(&queue)?;
        }
        // Claims of this transaction belong to other clients, since this one is gone.
        let is_idle = self.claims.len() == changes.settled.len()
            && changes.claims.is_empty()
            && self.consumers.iter().all(|consumer| changes.retired.contains(&consumer.id))
            && !self.queues.has_exclusive();
        if is_idle && let Some(owner) = self.lease.id() {
            self.release(owner, false, changes)?;
            changes.left = true;
        }
        Ok(())
    }

    fn get(
        &mut self,
        client: u64,
        queue: &str,
        most: usize,
        now: i64,
        changes: &mut Changes,
    ) -> Sql<Result<Vec<Claimed>>> {
        let entry = match self.queue_for(client, queue) {
            Ok(entry) => entry,
            Err(error) => return Ok(Err(error.context("cannot get a message"))),
        };
        self.touch(&entry, now)?;
        self.pass_due(now, changes)?;
        self.join(changes)?;
        Ok(Ok(self.take(&entry, most, None, client, changes)?))
    }

    /// Writes the verdicts that have arrived.
    pub(super) fn settle_verdicts(&mut self, changes: &mut Changes) -> Sql<()> {
        for index in 0..self.verdicts.len() {
            let (tag, ending) = self.verdicts[index];
            self.settle(tag, ending, changes)?;
        }
        Ok(())
    }

    fn settle(&mut self, tag: u64, ending: ClaimEnd, changes: &mut Changes) -> Sql<()> {
        // A tag from before a lost lease is unknown: the message has another owner now.
        let (Some(claim), Some(owner)) = (self.claims.get(&tag), self.lease.id()) else { return Ok(()) };
        changes.settled.push(tag);
        let &Claim { id, token, queue, rank, crashes, expires_at, .. } = claim;
        let held = self
            .db
            .prepare_cached("DELETE FROM claimed WHERE id = ? AND owner = ? AND token = ?")?
            .execute([id, owner, token])?;
        if held == 0 {
            return Ok(());
        }
        match ending {
            ClaimEnd::Ack => {
                self.db.prepare_cached("DELETE FROM message WHERE id = ?")?.execute([id])?;
                if let Some(at) = expires_at {
                    self.db
                        .prepare_cached("DELETE FROM expiring WHERE at = ? AND id = ?")?
                        .execute([at, id])?;
                }
            }
            ClaimEnd::Reject => {
                if let Some(at) = expires_at {
                    self.db
                        .prepare_cached("DELETE FROM expiring WHERE at = ? AND id = ?")?
                        .execute([at, id])?;
                }
                match self.queues.by_id(queue) {
                    Some(entry) => self.dead_letter(&entry, id, rank, Reason::Rejected, now_ms(), 0)?,
                    None => drop(self.db.prepare_cached("DELETE FROM message WHERE id = ?")?.execute([id])?),
                }
                changes.rings = true;
            }
            ClaimEnd::Requeue => {
                self.db
                    .prepare_cached(
                        "INSERT INTO ready (queue, rank, id, redelivered, crashes) VALUES (?, ?, ?, 1, ?)",
                    )?
                    .execute(params![queue, rank, id, crashes])?;
                if let Some(at) = expires_at {
                    self.db
                        .prepare_cached(
                            "INSERT OR IGNORE INTO expiring (at, id, queue, rank) VALUES (?, ?, ?, ?)",
                        )?
                        .execute([at, id, queue, rank])?;
                }
                self.grow(queue, 1);
                changes.rings = true;
            }
            ClaimEnd::Lost { pause } => {
                let at = now_ms().saturating_add(millis(pause));
                self.db
                    .prepare_cached(
                        "INSERT INTO delayed (at, id, queue, rank, redelivered, crashes) VALUES (?, ?, ?, ?, 1, ?)",
                    )?
                    .execute(params![at, id, queue, rank, crashes.saturating_add(1)])?;
                changes.rings = true;
            }
        }
        Ok(())
    }

    /// Applies the changes of a committed transaction to the claims.
    pub(super) fn apply_claims(&mut self, settled: &[u64], claims: Vec<(u64, Claim)>) {
        for tag in settled {
            let Some(claim) = self.claims.remove(tag) else { continue };
            if let Some(consumer) = self.consumer_of(&claim) {
                consumer.unsettled = consumer.unsettled.saturating_sub(1);
            }
        }
        for (tag, claim) in claims {
            if let Some(consumer) = self.consumer_of(&claim) {
                consumer.unsettled += 1;
            }
            self.claims.insert(tag, claim);
        }
    }

    fn consumer_of(&mut self, claim: &Claim) -> Option<&mut Consumer> {
        let id = claim.consumer?;
        self.consumers.iter_mut().find(|consumer| consumer.id == id)
    }

    /// Claims the first messages of a queue.
    pub(super) fn take(
        &mut self,
        entry: &Arc<QueueEntry>,
        limit: usize,
        consumer: Option<u64>,
        client: u64,
        changes: &mut Changes,
    ) -> Sql<Vec<Claimed>> {
        let db = Rc::clone(&self.db);
        let token = fresh_id() as i64;
        let owner = self.lease.id();
        let mut statement = db.prepare_cached(
            "SELECT r.rank, r.id, r.redelivered, r.crashes, m.exchange, m.routing_key, m.head, m.expires_at, m.body
             FROM ready r CROSS JOIN message m ON m.id = r.id
             WHERE r.queue = ? ORDER BY r.rank, r.id LIMIT ?",
        )?;
        let mut rows = statement.query(params![entry.id, limit as i64])?;
        let mut taken = Vec::new();
        let mut last = None;
        // A consumer is limited by its prefetch.
        let mut room = if consumer.is_none() { GET_BYTES } else { usize::MAX };
        while let Some(row) = rows.next()? {
            let (rank, id, crashes): (i64, i64, u32) = (row.get(0)?, row.get(1)?, row.get(3)?);
            last = Some((rank, id));
            let tag = fresh_id();
            let expires_at = row.get(7)?;
            let claim = Claim { id, token, queue: entry.id, rank, crashes, expires_at, consumer, client };
            changes.claims.push((tag, claim));
            let body = Bytes::copy_from_slice(row.get_ref(8)?.as_blob()?);
            room = room.saturating_sub(body.len());
            let routing_key: Option<String> = row.get(5)?;
            taken.push(Claimed {
                tag,
                message: head::decode(row.get_ref(6)?.as_str_or_null()?, body),
                queue: Arc::clone(&entry.name),
                exchange: row.get::<_, Option<String>>(4)?.unwrap_or_default(),
                routing_key: routing_key.unwrap_or_else(|| entry.name.to_string()),
                redelivered: row.get(2)?,
                crashes,
            });
            if room == 0 {
                break;
            }
        }
        let Some((rank, id)) = last else { return Ok(taken) };
        db.prepare_cached(
            "INSERT INTO claimed (id, owner, token, queue, rank, redelivered, crashes)
             SELECT id, ?, ?, queue, rank, redelivered, crashes
             FROM ready WHERE queue = ? AND (rank, id) <= (?, ?)",
        )?
        .execute(params![owner, token, entry.id, rank, id])?;
        db.prepare_cached("DELETE FROM ready WHERE queue = ? AND (rank, id) <= (?, ?)")?
            .execute([entry.id, rank, id])?;
        self.grow(entry.id, -(taken.len() as i64));
        Ok(taken)
    }

    /// The queue, if this client may consume from it.
    pub(super) fn queue_for(&self, client: u64, name: &str) -> Result<Arc<QueueEntry>> {
        let entry = self.queues.get(name).ok_or_else(|| {
            Error::topology(format!("there is no queue `{name}` in `{}`", self.path.display()))
        })?;
        if entry.owner.is_some()
            && !(entry.owner == self.lease.id() && self.queues.is_exclusive_of(client, name))
        {
            return Err(Error::topology(format!("queue `{name}` is exclusive to another connection")));
        }
        Ok(entry)
    }
}
