//! Looks at messages without taking them: those of a call, and the first of a queue.

use bytes::Bytes;
use rusqlite::OptionalExtension;

use super::engine::{Engine, Sql};
use super::head;
use crate::message::Message;

/// The maximum number of messages reported for one id, which rarely has more than a few copies.
const MOST: usize = 20;

/// A message and its position.
pub(crate) struct FoundRow {
    pub(crate) queue: String,
    pub(crate) place: RowPosition,
    pub(crate) message: Message,
}

/// The position of a message in its queue.
pub(crate) enum RowPosition {
    /// Ready, after `ahead` other messages.
    Ready { ahead: u64 },
    /// Delayed until a time in milliseconds since 1970.
    Delayed { until: i64 },
    /// Delivered to a worker.
    Claimed,
}

impl Engine {
    /// Finds the messages of a call. It reads the head of every message: ids are not indexed, since only commands look them
    /// up.
    pub(crate) fn find(&mut self, id: &str) -> Sql<Vec<FoundRow>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let quoted = serde_json::to_string(id).unwrap_or_default();
        let mut select = self
            .db
            .prepare_cached("SELECT id, head, body FROM message WHERE instr(head, ?1) > 0 LIMIT ?2")?;
        let heads = select.query_map((quoted, MOST as i64), |row| {
            let body: Vec<u8> = row.get(2)?;
            Ok((row.get::<_, i64>(0)?, head::decode(row.get_ref(1)?.as_str().ok(), Bytes::from(body))))
        })?;
        let heads: Vec<(i64, Message)> = heads.collect::<Sql<_>>()?;
        drop(select);
        let mut sighted = Vec::new();
        for (number, message) in heads {
            // The id may occur elsewhere in the head, for instance as that of a parent.
            if message.id() != Some(id) {
                continue;
            }
            let Some((queue, place)) = self.spot(number)? else { continue };
            let Some(entry) = self.queues.by_id(queue) else { continue };
            sighted.push(FoundRow { queue: entry.name.to_string(), place, message });
        }
        Ok(sighted)
    }

    /// Returns the first messages of a queue, until they exceed `bytes` in total.
    pub(crate) fn peek(&mut self, name: &str, most: usize, bytes: usize) -> Sql<Vec<Message>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let Some(entry) = self.queues.get(name) else { return Ok(Vec::new()) };
        let mut select = self.db.prepare_cached(
            "SELECT m.head, m.body FROM ready r JOIN message m ON m.id = r.id WHERE r.queue = ?1
             ORDER BY r.rank, r.id LIMIT ?2",
        )?;
        let mut rows = select.query((entry.id, i64::try_from(most).unwrap_or(i64::MAX)))?;
        let (mut messages, mut room) = (Vec::new(), bytes);
        while room > 0
            && let Some(row) = rows.next()?
        {
            let body: Vec<u8> = row.get(1)?;
            room = room.saturating_sub(body.len());
            messages.push(head::decode(row.get_ref(0)?.as_str().ok(), Bytes::from(body)));
        }
        Ok(messages)
    }

    fn spot(&self, number: i64) -> Sql<Option<(i64, RowPosition)>> {
        let ready = self
            .db
            .prepare_cached("SELECT queue, rank FROM ready WHERE id = ?1")?
            .query_row([number], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        if let Some((queue, rank)) = ready {
            let ahead: i64 = self
                .db
                .prepare_cached("SELECT count(*) FROM ready WHERE queue = ?1 AND (rank, id) < (?2, ?3)")?
                .query_row((queue, rank, number), |row| row.get(0))?;
            return Ok(Some((queue, RowPosition::Ready { ahead: ahead.unsigned_abs() })));
        }
        let delayed = self
            .db
            .prepare_cached("SELECT queue, at FROM delayed WHERE id = ?1")?
            .query_row([number], |row| Ok((row.get(0)?, RowPosition::Delayed { until: row.get(1)? })))
            .optional()?;
        if delayed.is_some() {
            return Ok(delayed);
        }
        self.db
            .prepare_cached("SELECT queue FROM claimed WHERE id = ?1")?
            .query_row([number], |row| Ok((row.get(0)?, RowPosition::Claimed)))
            .optional()
    }
}
