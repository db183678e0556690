//! Lists and deletes exchanges, bindings and queues on request.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::engine::{Engine, Sql};
use crate::error::{Error, Result};
use crate::routing::DeleteGuard;
use crate::routing::{Binding, Exchange};

impl Engine {
    /// The named exchanges, or all if `names` is empty.
    pub(crate) fn exchanges(&mut self, names: &[String]) -> Sql<Vec<Exchange>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let all = self.queues.exchanges().map(|(exchange, _)| exchange);
        let mut found: Vec<Exchange> =
            all.filter(|exchange| names.is_empty() || names.contains(&exchange.name)).cloned().collect();
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// All bindings.
    pub(crate) fn bindings(&mut self) -> Sql<Vec<Binding>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let mut found: Vec<Binding> =
            self.queues.exchanges().flat_map(|(_, bindings)| bindings).cloned().collect();
        found.sort();
        Ok(found)
    }

    /// How long the oldest ready message of a queue has waited: the longest wait among the first messages of each priority.
    pub(crate) fn oldest(&mut self, name: &str, now: i64) -> Sql<Option<Duration>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let Some(entry) = self.queues.get(name) else { return Ok(None) };
        let (mut rank, mut oldest) = (-1, None::<i64>);
        // Step from one priority to the next: a queue may hold a million messages, but has few priorities.
        loop {
            let first: Option<(i64, Option<i64>)> = self
                .db
                .prepare_cached(
                    "SELECT r.rank, m.since FROM ready r JOIN message m ON m.id = r.id
                     WHERE r.queue = ? AND r.rank > ? ORDER BY r.rank, r.id LIMIT 1",
                )?
                .query_row([entry.id, rank], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            let Some((next, since)) = first else { break };
            rank = next;
            oldest = [oldest, since].into_iter().flatten().min();
        }
        Ok(oldest.map(|since| Duration::from_millis(now.saturating_sub(since).max(0).unsigned_abs())))
    }

    /// Deletes a queue if the guard allows it, and returns how many messages were lost with it.
    pub(crate) fn delete_if(
        &mut self,
        client: u64,
        name: &str,
        guard: DeleteGuard,
        now: i64,
    ) -> Sql<Result<u64>> {
        if let Err(error) = self.queue_for(client, name) {
            return Ok(Err(error.context("cannot delete")));
        }
        let counts = self.count(&[name.to_owned()], now)?;
        let Some(count) = counts.into_iter().next() else {
            return Ok(Err(Error::topology(format!("cannot delete: there is no queue `{name}`"))));
        };
        let waiting = count.ready + count.delayed;
        if let Err(error) = guard.check_queue(name, count.consumers, count.running, waiting) {
            return Ok(Err(error));
        }
        self.delete(name)?;
        Ok(Ok(waiting + count.running))
    }

    /// Deletes an exchange and its bindings, if the guard allows it.
    pub(crate) fn delete_exchange(&mut self, name: &str, guard: DeleteGuard) -> Sql<Result<()>> {
        let Some((_, bindings)) = self.queues.exchange(name) else {
            let path = self.path.display();
            return Ok(Err(Error::topology(format!("there is no exchange `{name}` in `{path}`"))));
        };
        let bindings = bindings.clone();
        if let Err(error) = guard.check_exchange(name, bindings.len() as u64) {
            return Ok(Err(error));
        }
        bindings.iter().for_each(|binding| self.queues.forget_binding(binding));
        self.db.prepare_cached("DELETE FROM binding WHERE exchange = ?")?.execute([name])?;
        self.db.prepare_cached("DELETE FROM exchange WHERE name = ?")?.execute([name])?;
        self.touch_generation()?;
        Ok(Ok(()))
    }

    /// Removes a binding, if it exists.
    pub(crate) fn unbind(&mut self, binding: &Binding) -> Sql<()> {
        let Binding { exchange, queue, routing_key } = binding;
        let removed = self
            .db
            .prepare_cached("DELETE FROM binding WHERE exchange = ? AND queue = ? AND routing_key = ?")?
            .execute(params![exchange, queue, routing_key])?;
        if removed > 0 {
            self.queues.forget_binding(binding);
            self.delete_exchange_if_unbound(exchange)?;
            self.touch_generation()?;
        }
        Ok(())
    }

    /// Deletes an auto-delete exchange if its last binding is gone.
    pub(super) fn delete_exchange_if_unbound(&self, exchange: &str) -> Sql<()> {
        if self.queues.is_auto_delete(exchange) {
            self.db
                .prepare_cached(
                    "DELETE FROM exchange WHERE name = ?1
                     AND NOT EXISTS (SELECT 1 FROM binding WHERE exchange = ?1)",
                )?
                .execute([exchange])?;
        }
        Ok(())
    }
}
