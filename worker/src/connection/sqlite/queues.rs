//! Declares exchanges, queues and bindings, and counts the messages in queues.

use rusqlite::params;

use super::engine::{Changes, Engine, Sql, millis};
use super::owners::SHOWN_FOR;
use crate::error::{Error, Result};
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, Topology};
use crate::tracing;

/// The length of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) queue: String,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    pub(crate) delayed: u64,
    pub(crate) consumers: u64,
}

impl Engine {
    /// Reads the tables again, if they have changed.
    pub(super) fn refresh_queues(&mut self) -> Sql<()> {
        self.queues.refresh(&self.db)
    }

    /// Makes all processes read the tables again, after this transaction has changed them.
    pub(super) fn touch_generation(&mut self) -> Sql<()> {
        self.run("UPDATE topology SET generation = generation + 1")?;
        self.queues.suspect();
        self.refresh_queues()
    }

    /// Creates everything that does not exist yet. Everything is checked before anything is created.
    pub(crate) fn declare(
        &mut self,
        client: u64,
        topology: &Topology,
        now: i64,
        changes: &mut Changes,
    ) -> Sql<Result<()>> {
        if let Err(error) = self.check(client, topology) {
            return Ok(Err(error));
        }
        let mut is_changed = false;
        for exchange in &topology.exchanges {
            is_changed |= self.write_exchange(exchange)?;
        }
        for queue in &topology.queues {
            if let Some(known) = self.queues.get(&queue.name) {
                self.compare(&known.definition, queue);
                self.touch(&known, now)?;
                continue;
            }
            let owner = if queue.exclusive { Some(self.join(changes)?) } else { None };
            self.write_queue(queue, owner, now)?;
            if queue.exclusive {
                self.queues.own(client, queue);
            }
            is_changed = true;
        }
        for binding in topology.bindings.iter().filter(|binding| !binding.exchange.is_empty()) {
            self.queues.remember_binding(binding);
            is_changed |= self.write_binding(binding)?;
        }
        if is_changed {
            self.touch_generation()?;
        }
        Ok(Ok(()))
    }

    fn check(&self, client: u64, topology: &Topology) -> Result<()> {
        topology.validate()?;
        // Exchanges have no owner here: an external one is created if it is missing, and otherwise used as it is.
        let others =
            |exchange: &&Exchange| !exchange.external || self.queues.exchange(&exchange.name).is_none();
        for Exchange { name, kind, .. } in topology.exchanges.iter().filter(others) {
            if *kind == ExchangeKind::Headers {
                return Err(Error::unsupported(format!(
                    "cannot declare exchange `{name}`: headers exchanges need RabbitMQ"
                )));
            }
            let known = self.queues.exchange(name).map(|(known, _)| known.kind);
            if known.is_some_and(|known| known != *kind) {
                return Err(Error::topology(format!(
                    "cannot declare exchange `{name}` as {}: it exists as {}",
                    kind.as_str(),
                    known.unwrap_or_default().as_str()
                )));
            }
        }
        for queue in topology.queues.iter().filter(|queue| self.queues.get(&queue.name).is_some()) {
            self.queue_for(client, &queue.name).map_err(|error| error.context("cannot declare"))?;
        }
        for Binding { exchange, queue, routing_key } in &topology.bindings {
            let cannot = |why: String| {
                Error::topology(format!("cannot bind queue `{queue}` to exchange `{exchange}`: {why}"))
            };
            if exchange.is_empty() && routing_key != queue {
                return Err(cannot(
                    "the default exchange sends to the queue that the routing key names".into(),
                ));
            }
            let is_declared = topology.exchanges.iter().any(|known| known.name == *exchange);
            if !exchange.is_empty() && !is_declared && self.queues.exchange(exchange).is_none() {
                return Err(cannot("there is no such exchange".into()));
            }
            let is_declared = topology.queues.iter().any(|known| known.name == *queue);
            if !is_declared && self.queues.get(queue).is_none() {
                return Err(cannot("there is no such queue".into()));
            }
        }
        Ok(())
    }

    /// Warns once per queue that it exists with other arguments.
    fn compare(&mut self, known: &Queue, declared: &Queue) {
        if !declared.keeps_as(known) && self.queues.is_first_warning(&known.name) {
            let show = |queue: &Queue| serde_json::to_string(queue).unwrap_or_default();
            tracing::warn!(
                queue = known.name,
                exists = show(known),
                declared = show(declared),
                "the queue exists with other arguments and is used as it is"
            );
        }
    }

    fn write_exchange(&self, exchange: &Exchange) -> Sql<bool> {
        let written = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO exchange (name, definition) VALUES (?, ?)")?
            .execute(params![exchange.name, write_json(exchange)])?;
        Ok(written > 0)
    }

    fn write_queue(&self, queue: &Queue, owner: Option<i64>, now: i64) -> Sql<()> {
        self.db
            .prepare_cached(
                "INSERT OR IGNORE INTO queue (name, definition, owner, expires, used_at) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![queue.name, write_json(queue), owner, queue.expires.map(millis), now])
            .map(drop)
    }

    fn write_binding(&self, binding: &Binding) -> Sql<bool> {
        let written = self
            .db
            .prepare_cached("INSERT OR IGNORE INTO binding (exchange, queue, routing_key) VALUES (?, ?, ?)")?
            .execute(params![binding.exchange, binding.queue, binding.routing_key])?;
        Ok(written > 0)
    }

    /// Declares the exclusive queues again that were deleted with a lost lease.
    pub(super) fn declare_exclusive_again(&mut self, owner: i64, now: i64) -> Sql<()> {
        let exclusive = self.queues.exclusive();
        if exclusive.is_empty() {
            return Ok(());
        }
        for topology in exclusive {
            for queue in &topology.queues {
                self.write_queue(queue, Some(owner), now)?;
            }
            for binding in &topology.bindings {
                self.write_binding(binding)?;
            }
        }
        self.touch_generation()
    }

    /// Counts the messages and consumers of the named queues, or of all if `names` is empty.
    pub(crate) fn count(&mut self, names: &[String], now: i64) -> Sql<Vec<Count>> {
        self.queues.suspect();
        self.refresh_queues()?;
        let number = |sql: &str, id: i64| -> Sql<u64> {
            self.db.prepare_cached(sql)?.query_row(params![id, now], |row| row.get(0).map(i64::unsigned_abs))
        };
        let mut counts = Vec::new();
        for entry in self.queues.entries() {
            if !names.is_empty() && !names.iter().any(|name| **name == *entry.name) {
                continue;
            }
            let ready = number("SELECT count(*) FROM ready WHERE queue = ?1 AND ?2 > 0", entry.id)?;
            let due = number("SELECT count(*) FROM delayed WHERE queue = ?1 AND at <= ?2", entry.id)?;
            let delayed = number("SELECT count(*) FROM delayed WHERE queue = ?1 AND at > ?2", entry.id)?;
            // Messages of dead owners count as ready: they are requeued once another process works on this file.
            let claimed = number("SELECT count(*) FROM claimed WHERE queue = ?1 AND ?2 > 0", entry.id)?;
            let running = self
                .db
                .prepare_cached(
                    "SELECT count(*) FROM claimed c JOIN owner o ON o.id = c.owner
                     WHERE c.queue = ? AND (o.beat > ? OR o.id = ?)",
                )?
                .query_row(params![entry.id, now - SHOWN_FOR, self.lease.id()], |row| {
                    row.get(0).map(i64::unsigned_abs)
                })?;
            let ready = ready + claimed.saturating_sub(running);
            let consumers = self
                .db
                .prepare_cached(
                    "SELECT count(*) FROM consumer c JOIN owner o ON o.id = c.owner
                     WHERE c.queue = ? AND (o.beat > ? OR o.id = ?)",
                )?
                .query_row(params![&*entry.name, now - SHOWN_FOR, self.lease.id()], |row| {
                    row.get(0).map(i64::unsigned_abs)
                })?;
            counts.push(Count {
                queue: entry.name.to_string(),
                ready: ready + due,
                running,
                delayed,
                consumers,
            });
        }
        counts.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(counts)
    }
}

fn write_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("a definition can be written")
}
