//! A copy in memory of the exchanges, queues and bindings, read again when their generation changes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::routing::topology::route;
use crate::routing::{Binding, Exchange, Queue, Topology};

/// A queue as it was first declared.
#[derive(Debug)]
pub(super) struct QueueEntry {
    pub(super) id: i64,
    pub(super) name: Arc<str>,
    pub(super) definition: Queue,
    /// The owner of an exclusive queue.
    pub(super) owner: Option<i64>,
}

/// The copy in memory.
#[derive(Default)]
pub(super) struct Queues {
    /// Zero if nothing has been read yet.
    generation: i64,
    /// True if another process may have changed the tables.
    is_suspect: bool,
    by_name: HashMap<String, Arc<QueueEntry>>,
    names: HashMap<i64, Arc<QueueEntry>>,
    exchanges: HashMap<String, (Exchange, Vec<Binding>)>,
    /// Queues for which the warning that they exist with other arguments has been logged.
    warned: HashSet<String>,
    /// The exclusive queues of this process with their client, to be declared again after a lost lease.
    exclusive: HashMap<String, (u64, Topology)>,
}

impl Queues {
    /// Reads the tables again, if they have changed.
    pub(super) fn refresh(&mut self, db: &Connection) -> rusqlite::Result<()> {
        if !self.is_suspect && self.generation != 0 {
            return Ok(());
        }
        let generation =
            db.prepare_cached("SELECT generation FROM topology")?.query_row([], |row| row.get(0))?;
        if generation != self.generation {
            self.read(db)?;
            self.generation = generation;
        }
        self.is_suspect = false;
        Ok(())
    }

    fn read(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.by_name.clear();
        self.names.clear();
        self.exchanges.clear();
        let mut statement = db.prepare_cached("SELECT id, name, definition, owner FROM queue")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (name, definition): (String, String) = (row.get(1)?, row.get(2)?);
            let entry = Arc::new(QueueEntry {
                id: row.get(0)?,
                name: name.as_str().into(),
                definition: read_json(&definition)?,
                owner: row.get(3)?,
            });
            self.names.insert(entry.id, Arc::clone(&entry));
            self.by_name.insert(name, entry);
        }
        let mut statement = db.prepare_cached("SELECT name, definition FROM exchange")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let definition: String = row.get(1)?;
            self.exchanges.insert(row.get(0)?, (read_json(&definition)?, Vec::new()));
        }
        let mut statement = db.prepare_cached("SELECT exchange, queue, routing_key FROM binding")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let binding = Binding { exchange: row.get(0)?, queue: row.get(1)?, routing_key: row.get(2)? };
            if let Some((_, bindings)) = self.exchanges.get_mut(&binding.exchange) {
                bindings.push(binding);
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<QueueEntry>> {
        self.by_name.get(name).map(Arc::clone)
    }

    pub(super) fn by_id(&self, id: i64) -> Option<Arc<QueueEntry>> {
        self.names.get(&id).map(Arc::clone)
    }

    /// The queues that a message is routed to.
    ///
    /// # Errors
    /// An unknown exchange.
    pub(super) fn targets(&self, exchange: &str, routing_key: &str) -> Result<Vec<Arc<QueueEntry>>> {
        if exchange.is_empty() {
            return Ok(self.get(routing_key).into_iter().collect());
        }
        let known = self.exchanges.get(exchange);
        let names = known.and_then(|(this, bindings)| route([this], bindings, exchange, routing_key));
        let names = names.ok_or_else(|| Error::topology(format!("there is no exchange `{exchange}`")))?;
        Ok(names.into_iter().filter_map(|name| self.get(name)).collect())
    }

    pub(super) fn suspect(&mut self) {
        self.is_suspect = true;
    }

    /// Discards the copy: it may come from a transaction that was rolled back.
    pub(super) fn forget(&mut self) {
        self.generation = 0;
        self.is_suspect = true;
    }

    /// All exchanges with their bindings.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &(Exchange, Vec<Binding>)> {
        self.exchanges.values()
    }

    /// An exchange with its bindings.
    pub(super) fn exchange(&self, name: &str) -> Option<&(Exchange, Vec<Binding>)> {
        self.exchanges.get(name)
    }

    /// All queues.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<QueueEntry>> {
        self.by_name.values()
    }

    /// True for the first warning about a queue.
    pub(super) fn is_first_warning(&mut self, queue: &str) -> bool {
        self.warned.insert(queue.to_owned())
    }

    /// Records that a queue is exclusive to a client of this process.
    pub(super) fn own(&mut self, client: u64, queue: &Queue) {
        self.exclusive.insert(queue.name.clone(), (client, Topology::of_queue(queue.clone())));
    }

    /// Remembers a binding of an exclusive queue, to restore it when the queue is declared again.
    pub(super) fn remember_binding(&mut self, binding: &Binding) {
        if let Some((_, topology)) = self.exclusive.get_mut(&binding.queue) {
            topology.merge(Topology { bindings: vec![binding.clone()], ..Topology::default() });
        }
    }

    /// The exclusive queues of this process with their bindings.
    pub(super) fn exclusive(&self) -> Vec<Topology> {
        self.exclusive.values().map(|(_, topology)| topology.clone()).collect()
    }

    /// Forgets a binding, so that it is not restored when its exclusive queue is declared again.
    pub(super) fn forget_binding(&mut self, binding: &Binding) {
        if let Some((_, topology)) = self.exclusive.get_mut(&binding.queue) {
            topology.bindings.retain(|known| known != binding);
        }
    }

    /// True if the exchange is deleted with its last binding.
    pub(super) fn is_auto_delete(&self, exchange: &str) -> bool {
        self.exchanges.get(exchange).is_some_and(|(known, _)| known.auto_delete)
    }

    /// Forgets an exclusive queue, so that it is not declared again after a lost lease.
    pub(super) fn disown(&mut self, queue: &str) {
        self.exclusive.remove(queue);
    }

    pub(super) fn has_exclusive(&self) -> bool {
        !self.exclusive.is_empty()
    }

    pub(super) fn is_exclusive_of(&self, client: u64, queue: &str) -> bool {
        self.exclusive.get(queue).is_some_and(|(owner, _)| *owner == client)
    }

    pub(super) fn exclusive_of(&self, client: u64) -> Vec<String> {
        let mine = self.exclusive.iter().filter(|(_, (owner, _))| *owner == client);
        mine.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn has_expiring(&self) -> bool {
        self.by_name.values().any(|entry| entry.definition.expires.is_some())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
    })
}
