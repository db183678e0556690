//! Finding a message by the id of its call, without taking it.

use bytes::Bytes;
use rusqlite::OptionalExtension;

use super::engine::{Engine, Sql};
use super::head;
use crate::message::Message;

/// The most messages of one id that are reported: copies, if any, are few.
const MOST: usize = 20;

/// A message and where it is.
pub(crate) struct Sighted {
    pub(crate) queue: String,
    pub(crate) place: Spot,
    pub(crate) message: Message,
}

/// Where in its queue it is.
pub(crate) enum Spot {
    /// So many are delivered before it.
    Ready { ahead: u64 },
    /// It waits until then, in milliseconds since 1970.
    Delayed { until: i64 },
    /// A worker has it.
    Claimed,
}

impl Engine {
    /// The messages of a call. Ids are not indexed, since nothing but people asks for them: it reads the head of every
    /// message.
    pub(crate) fn find(&mut self, id: &str) -> Sql<Vec<Sighted>> {
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
            // The id may stand elsewhere in the head, as that of a parent does.
            if message.id() != Some(id) {
                continue;
            }
            let Some((queue, place)) = self.spot(number)? else { continue };
            let Some(entry) = self.queues.by_id(queue) else { continue };
            sighted.push(Sighted { queue: entry.name.to_string(), place, message });
        }
        Ok(sighted)
    }

    fn spot(&self, number: i64) -> Sql<Option<(i64, Spot)>> {
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
            return Ok(Some((queue, Spot::Ready { ahead: ahead.unsigned_abs() })));
        }
        let delayed = self
            .db
            .prepare_cached("SELECT queue, at FROM delayed WHERE id = ?1")?
            .query_row([number], |row| Ok((row.get(0)?, Spot::Delayed { until: row.get(1)? })))
            .optional()?;
        if delayed.is_some() {
            return Ok(delayed);
        }
        self.db
            .prepare_cached("SELECT queue FROM claimed WHERE id = ?1")?
            .query_row([number], |row| Ok((row.get(0)?, Spot::Claimed)))
            .optional()
    }
}
