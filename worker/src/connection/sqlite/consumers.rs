//! The consumers of this process: distributes messages among them in turns, within their prefetch.

use std::sync::Arc;

use rusqlite::params;

use super::claim::{ClaimEnd, Claimed};
use super::consumer::{Consumer, Consuming};
use super::engine::{Changes, Engine, Sql, now_ms};
use super::job::{self, Job, Run};
use super::queue::QueueEntry;
use crate::error::Result;

/// Registers a consumer. Deliveries start with the next transaction.
pub(crate) fn consume(consuming: Consuming) -> Job<(), impl Run<()>> {
    job::write("consume", move |engine, _, changes| engine.consume(&consuming, changes)).lazily()
}

/// Changes the queues of a consumer. Deliveries of other queues can still be settled.
pub(crate) fn set_queues(client: u64, consumer: u64, queues: Vec<String>) -> Job<(), impl Run<()>> {
    let run = move |engine: &mut Engine, now, changes: &mut Changes| {
        engine.set_queues(client, consumer, &queues, now, changes)
    };
    job::write("change the queues of a consumer", run).lazily()
}

/// Changes the prefetch of a consumer.
pub(crate) fn set_prefetch(consumer: u64, prefetch: usize) -> Job<(), impl Run<()>> {
    let run = move |engine: &mut Engine, _, _: &mut Changes| {
        if let Some(known) = engine.consumers.iter_mut().find(|known| known.id == consumer) {
            known.prefetch = prefetch;
        }
        Ok(Ok(()))
    };
    job::write("change the prefetch of a consumer", run).lazily()
}

/// Cancels a consumer. Its deliveries can still be settled.
pub(crate) fn cancel(consumer: u64) -> Job<(), impl Run<()>> {
    let run = move |engine: &mut Engine, now, changes: &mut Changes| {
        engine.end_consumer(consumer, now, changes).map(Ok)
    };
    job::write("cancel a consumer", run).lazily().run_without_caller()
}

impl Engine {
    fn consume(&mut self, consuming: &Consuming, changes: &mut Changes) -> Sql<Result<()>> {
        for queue in &consuming.queues {
            if let Err(error) = self.queue_for(consuming.client, queue) {
                return Ok(Err(error.context("cannot consume")));
            }
        }
        let owner = self.join(changes)?;
        for queue in &consuming.queues {
            self.write_consumer(owner, consuming.consumer, queue, &consuming.name)?;
        }
        changes.begun.push(Consumer::new(consuming.clone()));
        Ok(Ok(()))
    }

    fn set_queues(
        &mut self,
        client: u64,
        id: u64,
        queues: &[String],
        now: i64,
        changes: &mut Changes,
    ) -> Sql<Result<()>> {
        let Some(known) = self.consumers.iter().find(|consumer| consumer.id == id) else { return Ok(Ok(())) };
        let (before, name) = (known.queues.clone(), known.name.clone());
        for queue in queues {
            if let Err(error) = self.queue_for(client, queue) {
                return Ok(Err(error.context("cannot consume")));
            }
        }
        let owner = self.join(changes)?;
        for queue in queues {
            self.write_consumer(owner, id, queue, &name)?;
        }
        for queue in before.iter().filter(|queue| !queues.contains(queue)) {
            self.db
                .prepare_cached("DELETE FROM consumer WHERE owner = ? AND id = ? AND queue = ?")?
                .execute(params![owner, id as i64, queue])?;
            self.consumer_left(queue, now)?;
        }
        changes.moved.push((id, queues.to_vec()));
        Ok(Ok(()))
    }

    /// Applies new lists of queues to consumers.
    pub(super) fn move_consumers(&mut self, moved: Vec<(u64, Vec<String>)>) {
        for (id, queues) in moved {
            if let Some(consumer) = self.consumers.iter_mut().find(|consumer| consumer.id == id) {
                (consumer.queues, consumer.first) = (queues, 0);
                self.may_claim = true;
            }
        }
    }

    pub(super) fn end_consumer(&mut self, id: u64, now: i64, changes: &mut Changes) -> Sql<()> {
        changes.retired.push(id);
        let known = self.consumers.iter().find(|consumer| consumer.id == id);
        let Some(queues) = known.map(|consumer| consumer.queues.clone()) else { return Ok(()) };
        self.db
            .prepare_cached("DELETE FROM consumer WHERE owner = ? AND id = ?")?
            .execute(params![self.lease.id(), id as i64])?;
        queues.iter().try_for_each(|queue| self.consumer_left(queue, now))
    }

    /// Passes claimed messages to their consumers, and requeues those whose consumer has gone.
    pub(super) fn hand_out(&mut self, handed: Vec<(u64, Claimed)>) {
        for (id, claimed) in handed {
            let tag = claimed.tag;
            let consumer = self.consumers.iter().find(|consumer| consumer.id == id);
            if !consumer.is_some_and(|consumer| (consumer.sink.hand_out)(claimed)) {
                self.verdicts.push((tag, ClaimEnd::Requeue));
            }
        }
    }

    /// True if a consumer has room and a message is ready for it. Does not write.
    pub(super) fn could_claim(&self) -> Sql<bool> {
        let mut any = self.db.prepare_cached("SELECT EXISTS (SELECT 1 FROM ready WHERE queue = ?)")?;
        for consumer in self.consumers.iter().filter(|consumer| consumer.unsettled < consumer.prefetch) {
            for queue in &consumer.queues {
                // An unknown queue may have been declared by another process since.
                let Some(entry) = self.queues.get(queue) else { return Ok(true) };
                if any.query_row([entry.id], |row| row.get(0))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Claims messages for the consumers of this process. If several have room, each gets a part of its room per round, so
    /// that the first does not take everything.
    pub(super) fn claim_for_consumers(&mut self, changes: &mut Changes) -> Sql<()> {
        let mut room = self.room(changes)?;
        let count = room.len();
        self.turn = self.turn.wrapping_add(1);
        loop {
            let hungry = room.iter().filter(|&&room| room > 0).count();
            if hungry == 0 {
                return Ok(());
            }
            for step in 0..count {
                let index = self.turn.wrapping_add(step) % count;
                if room[index] == 0 {
                    continue;
                }
                let share = if hungry == 1 { room[index] } else { 1 + room[index] / 8 };
                let taken = self.claim_for(index, share, changes)?;
                // Less than its share: its queues are empty.
                room[index] = if taken < share { 0 } else { room[index] - taken };
            }
        }
    }

    /// Returns how many more messages each consumer may have. Ends those whose receiver was dropped.
    fn room(&mut self, changes: &mut Changes) -> Sql<Vec<usize>> {
        let closed =
            self.consumers.iter().filter(|consumer| consumer.is_closed()).map(|consumer| consumer.id);
        let closed: Vec<u64> = closed.filter(|id| !changes.retired.contains(id)).collect();
        let now = now_ms();
        for id in closed {
            self.end_consumer(id, now, changes)?;
        }
        let mut unsettled: Vec<usize> = self.consumers.iter().map(|consumer| consumer.unsettled).collect();
        for claim in changes.settled.iter().filter_map(|tag| self.claims.get(tag)) {
            let index = self.consumers.iter().position(|consumer| Some(consumer.id) == claim.consumer);
            if let Some(index) = index {
                unsettled[index] = unsettled[index].saturating_sub(1);
            }
        }
        let room = |(consumer, unsettled): (&Consumer, usize)| match changes.retired.contains(&consumer.id) {
            true => 0,
            // More may be unsettled than the prefetch if it was reduced.
            false => consumer.prefetch.saturating_sub(unsettled),
        };
        Ok(self.consumers.iter().zip(unsettled).map(room).collect())
    }

    /// Claims up to `share` messages for one consumer: an equal part from each queue first, then the rest from any.
    fn claim_for(&mut self, index: usize, share: usize, changes: &mut Changes) -> Sql<usize> {
        let consumer = &mut self.consumers[index];
        let (id, client) = (consumer.id, consumer.client);
        let first = consumer.first;
        consumer.first = (first + 1) % consumer.queues.len().max(1);
        let names = consumer.queues.iter().cycle().skip(first).take(consumer.queues.len());
        let entries: Vec<Arc<QueueEntry>> = names.filter_map(|name| self.queues.get(name)).collect();
        let part = share.div_ceil(entries.len().max(1));
        let mut left = share;
        for limit in [part, share] {
            for entry in &entries {
                let wanted = left.min(limit);
                if wanted == 0 {
                    break;
                }
                let taken = self.take(entry, wanted, Some(id), client, changes)?;
                left -= taken.len();
                changes.handed.extend(taken.into_iter().map(|claimed| (id, claimed)));
            }
            if entries.len() == 1 {
                break;
            }
        }
        Ok(share - left)
    }
}
