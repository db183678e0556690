//! Publishing, and events of a waiting message: its delay ends, it expires, or its queue overflows.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use rusqlite::{OptionalExtension, params};

use super::engine::{Changes, Engine, Sql, millis};
use super::head;
use super::job::{self, Job, Run};
use super::queue::QueueEntry;
use crate::error::{Error, ErrorKind, Result};
use crate::routing::Overflow;
use crate::tracing;

/// The maximum number of due messages that one transaction moves; the rest follow in the next one.
const DUE_BATCH: i64 = 1000;
/// The longest chain of dead letters that push each other out of full queues; the next one is dropped.
const MAX_HOPS: u32 = 8;

/// A message to publish, encoded by the caller so that the thread does not have to.
pub(crate) struct Publishing {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) head: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) priority: u8,
    pub(crate) expiration: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) mandatory: bool,
}

/// Publishes a message into all its queues, or into none.
pub(crate) fn publish(publishing: Publishing) -> Job<(), impl Run<()>> {
    let bytes = publishing.body.len();
    job::write("publish", move |engine, now, changes| engine.publish(&publishing, now, changes))
        .of_bytes(bytes)
}

/// A message on its way into queues.
struct Entering<'a> {
    exchange: &'a str,
    routing_key: &'a str,
    head: Option<&'a str>,
    body: &'a [u8],
    rank: i64,
    /// When it can be delivered, if it is delayed.
    at: Option<i64>,
    /// How long it may wait, in milliseconds.
    expiration: Option<i64>,
    hops: u32,
}

/// Why a message left its queue without being consumed, with RabbitMQ's names.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Reason {
    Expired,
    TooMany,
    Rejected,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::TooMany => "maxlen",
            Reason::Rejected => "rejected",
        }
    }
}

impl Engine {
    pub(super) fn publish(
        &mut self,
        publishing: &Publishing,
        now: i64,
        changes: &mut Changes,
    ) -> Sql<Result<()>> {
        let Publishing { exchange, routing_key, .. } = publishing;
        let targets = match self.queues.targets(exchange, routing_key) {
            Ok(targets) => targets,
            Err(error) => return Ok(Err(error.context("cannot publish"))),
        };
        if targets.is_empty() && publishing.mandatory {
            let text = match exchange.as_str() {
                "" => {
                    format!("cannot publish: there is no queue `{routing_key}` in `{}`", self.path.display())
                }
                _ => format!(
                    "cannot publish: exchange `{exchange}` has no queue for routing key `{routing_key}`"
                ),
            };
            return Ok(Err(Error::new(ErrorKind::Unroutable, text)));
        }
        // All or none: if the caller gets `rejected`, nothing was enqueued.
        if publishing.delay.is_none() {
            for entry in &targets {
                if entry.definition.overflow == Some(Overflow::RejectPublish) && self.is_full(entry)? {
                    return Ok(Err(Error::new(
                        ErrorKind::Rejected,
                        format!("cannot publish: queue `{}` is full", entry.name),
                    )));
                }
            }
        }
        let entering = Entering {
            exchange,
            routing_key,
            head: publishing.head.as_deref(),
            body: &publishing.body,
            rank: 255 - i64::from(publishing.priority),
            at: publishing
                .delay
                .filter(|delay| !delay.is_zero())
                // The current millisecond has partly passed: without one more, the message would be due too early.
                .map(|delay| now.saturating_add(millis(delay)).saturating_add(1)),
            expiration: publishing.expiration.map(millis),
            hops: 0,
        };
        for entry in &targets {
            self.enter(entry, &entering, now)?;
        }
        changes.rings |= !targets.is_empty();
        Ok(Ok(()))
    }

    fn enter(&mut self, entry: &Arc<QueueEntry>, entering: &Entering<'_>, now: i64) -> Sql<()> {
        let definition = &entry.definition;
        let wait = [entering.expiration, definition.message_ttl.map(millis)].into_iter().flatten().min();
        let expires_at = wait.map(|wait| entering.at.unwrap_or(now).saturating_add(wait));
        let lowest = 255 - i64::from(definition.max_priority.unwrap_or(u8::MAX));
        let rank = entering.rank.max(lowest);
        let is_direct = entering.exchange.is_empty() && entering.routing_key == &*entry.name;
        let address = (!is_direct).then_some((entering.exchange, entering.routing_key));
        let db = Rc::clone(&self.db);
        db.prepare_cached(
            "INSERT INTO message (exchange, routing_key, head, expires_at, body, since) VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            address.map(|address| address.0),
            address.map(|address| address.1),
            entering.head,
            expires_at,
            entering.body,
            entering.at.unwrap_or(now)
        ])?;
        let id = db.last_insert_rowid();
        if let Some(at) = expires_at {
            db.prepare_cached("INSERT INTO expiring (at, id, queue, rank) VALUES (?, ?, ?, ?)")?
                .execute([at, id, entry.id, rank])?;
        }
        match entering.at {
            Some(at) => {
                db.prepare_cached("INSERT INTO delayed (at, id, queue, rank) VALUES (?, ?, ?, ?)")?
                    .execute([at, id, entry.id, rank])?;
                Ok(())
            }
            None => self.make_ready(entry, id, rank, now, entering.hops),
        }
    }

    fn make_ready(&mut self, entry: &Arc<QueueEntry>, id: i64, rank: i64, now: i64, hops: u32) -> Sql<()> {
        self.db
            .prepare_cached(
                "INSERT INTO ready (queue, rank, id, redelivered, crashes) VALUES (?, ?, ?, 0, 0)",
            )?
            .execute([entry.id, rank, id])?;
        self.grow(entry.id, 1);
        self.trim(entry, now, hops)
    }

    /// Makes a delayed message ready. One that was delivered before gets its expiry back.
    fn end_delay(&mut self, entry: &Arc<QueueEntry>, at: i64, id: i64, now: i64) -> Sql<()> {
        let db = std::rc::Rc::clone(&self.db);
        db.prepare_cached(
            "INSERT INTO ready (queue, rank, id, redelivered, crashes)
             SELECT queue, rank, id, redelivered, crashes FROM delayed WHERE at = ? AND id = ?",
        )?
        .execute([at, id])?;
        db.prepare_cached(
            "INSERT OR IGNORE INTO expiring (at, id, queue, rank)
             SELECT m.expires_at, m.id, d.queue, d.rank FROM delayed d JOIN message m ON m.id = d.id
             WHERE d.at = ? AND d.id = ? AND d.redelivered AND m.expires_at IS NOT NULL",
        )?
        .execute([at, id])?;
        db.prepare_cached("DELETE FROM delayed WHERE at = ? AND id = ?")?.execute([at, id])?;
        self.grow(entry.id, 1);
        self.trim(entry, now, 0)
    }

    fn is_full(&mut self, entry: &QueueEntry) -> Sql<bool> {
        match entry.definition.max_length {
            Some(limit) => Ok(self.length(entry.id)? >= limit),
            None => Ok(false),
        }
    }

    fn length(&mut self, queue: i64) -> Sql<u64> {
        if let Some(&length) = self.lengths.get(&queue) {
            return Ok(length);
        }
        let length = self
            .db
            .prepare_cached("SELECT count(*) FROM ready WHERE queue = ?")?
            .query_row([queue], |row| row.get::<_, i64>(0))?
            .unsigned_abs();
        self.lengths.insert(queue, length);
        Ok(length)
    }

    /// Updates a cached length.
    pub(super) fn grow(&mut self, queue: i64, by: i64) {
        if let Some(length) = self.lengths.get_mut(&queue) {
            *length = length.saturating_add_signed(by);
        }
    }

    /// Drops messages beyond the length limit from the head. A queue that rejects publishes exceeds it only by messages that
    /// were accepted earlier, before a delay: those stay.
    fn trim(&mut self, entry: &Arc<QueueEntry>, now: i64, hops: u32) -> Sql<()> {
        let Some(limit) = entry.definition.max_length else { return Ok(()) };
        if entry.definition.overflow == Some(Overflow::RejectPublish) {
            return Ok(());
        }
        while self.length(entry.id)? > limit {
            let head: Option<(i64, i64)> = self
                .db
                .prepare_cached("SELECT rank, id FROM ready WHERE queue = ? ORDER BY rank, id LIMIT 1")?
                .query_row([entry.id], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((rank, id)) = head else { break };
            self.remove_ready(entry.id, rank, id)?;
            self.dead_letter(entry, id, rank, Reason::TooMany, now, hops)?;
        }
        Ok(())
    }

    fn remove_ready(&mut self, queue: i64, rank: i64, id: i64) -> Sql<bool> {
        let removed = self
            .db
            .prepare_cached("DELETE FROM ready WHERE queue = ? AND rank = ? AND id = ?")?
            .execute([queue, rank, id])?;
        self.grow(queue, -(removed as i64));
        Ok(removed > 0)
    }

    /// Dead-letters a message that was removed from its queue, or drops it if the queue has no dead-letter exchange.
    pub(super) fn dead_letter(
        &mut self,
        entry: &Arc<QueueEntry>,
        id: i64,
        rank: i64,
        reason: Reason,
        now: i64,
        hops: u32,
    ) -> Sql<()> {
        if let Some(exchange) = &entry.definition.dead_letter_exchange
            && hops < MAX_HOPS
        {
            self.send_dead_letter(entry, exchange, id, rank, reason, now, hops)?;
        }
        self.db.prepare_cached("DELETE FROM message WHERE id = ?")?.execute([id])?;
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the second half of dead_letter")]
    fn send_dead_letter(
        &mut self,
        entry: &Arc<QueueEntry>,
        exchange: &str,
        id: i64,
        rank: i64,
        reason: Reason,
        now: i64,
        hops: u32,
    ) -> Sql<()> {
        type Row = (Option<String>, Option<String>, Vec<u8>);
        let found: Option<Row> = self
            .db
            .prepare_cached("SELECT routing_key, head, body FROM message WHERE id = ?")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((published_with, old_head, body)) = found else { return Ok(()) };
        let published_with = published_with.unwrap_or_else(|| entry.name.to_string());
        let routing_key = entry.definition.dead_letter_routing_key.as_ref().unwrap_or(&published_with);
        let targets = self.queues.targets(exchange, routing_key).unwrap_or_default();
        // A message that overflowed must not return to the same queue: that would never stop.
        let targets: Vec<_> =
            targets.into_iter().filter(|target| reason != Reason::TooMany || target.id != entry.id).collect();
        if targets.is_empty() {
            tracing::debug!(
                queue = &*entry.name,
                exchange,
                routing_key,
                "a dead letter has no queue and is dropped"
            );
            return Ok(());
        }
        let mut message = head::decode(old_head.as_deref(), Bytes::from(body));
        // Clear the expiration: otherwise the message would expire there too.
        message.properties.expiration = None;
        message.headers.set_dropped_by_broker(reason.as_str(), &entry.name, Utc::now());
        let new_head = head::encode(&message);
        let entering = Entering {
            exchange,
            routing_key,
            head: new_head.as_deref(),
            body: &message.body,
            rank,
            at: None,
            expiration: None,
            hops: hops + 1,
        };
        targets.iter().try_for_each(|target| self.enter(target, &entering, now))
    }

    /// Handles everything that is due: delays that end, messages and unused queues that expire.
    pub(super) fn pass_due(&mut self, now: i64, changes: &mut Changes) -> Sql<()> {
        self.end_delays(now, changes)?;
        self.expire_messages(now, changes)?;
        self.delete_unused_queues(now)
    }

    fn end_delays(&mut self, now: i64, changes: &mut Changes) -> Sql<()> {
        for (at, id, queue, _) in
            self.due("SELECT at, id, queue, rank FROM delayed WHERE at <= ? ORDER BY at, id LIMIT ?", now)?
        {
            match self.queues.by_id(queue) {
                Some(entry) => {
                    self.end_delay(&entry, at, id, now)?;
                    changes.rings = true;
                }
                None => {
                    self.db
                        .prepare_cached("DELETE FROM delayed WHERE at = ? AND id = ?")?
                        .execute([at, id])?;
                }
            }
        }
        Ok(())
    }

    fn expire_messages(&mut self, now: i64, changes: &mut Changes) -> Sql<()> {
        for (at, id, queue, rank) in
            self.due("SELECT at, id, queue, rank FROM expiring WHERE at <= ? ORDER BY at, id LIMIT ?", now)?
        {
            self.db.prepare_cached("DELETE FROM expiring WHERE at = ? AND id = ?")?.execute([at, id])?;
            // A delivered message expires when it is requeued.
            if self.remove_ready(queue, rank, id)?
                && let Some(entry) = self.queues.by_id(queue)
            {
                self.dead_letter(&entry, id, rank, Reason::Expired, now, 0)?;
                changes.rings = true;
            }
        }
        Ok(())
    }

    fn due(&self, sql: &str, now: i64) -> Sql<Vec<(i64, i64, i64, i64)>> {
        self.db
            .prepare_cached(sql)?
            .query_map([now, DUE_BATCH], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
            .collect()
    }
}
