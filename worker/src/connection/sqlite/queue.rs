//! What is known of the queues: a copy of the tables of exchanges, queues and bindings in memory.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::routing::topology::route;
use crate::routing::{Binding, Exchange, Queue, Topology};

/// A queue as it was declared first.
#[derive(Debug)]
pub(super) struct QueueEntry {
    pub(super) id: i64,
    pub(super) name: Arc<str>,
    pub(super) definition: Queue,
    /// Whose it is, when it is exclusive.
    pub(super) owner: Option<i64>,
}

/// The copy in memory.
#[derive(Default)]
pub(super) struct Queues {
    /// Zero: nothing has been read.
    pub(super) generation: i64,
    /// Another process may have changed the tables.
    pub(super) is_suspect: bool,
    pub(super) by_name: HashMap<String, Arc<QueueEntry>>,
    pub(super) names: HashMap<i64, Arc<QueueEntry>>,
    pub(super) exchanges: HashMap<String, (Exchange, Vec<Binding>)>,
    /// Queues of which it was said that they are not as declared.
    pub(super) warned: HashSet<String>,
    /// Exclusive queues of this process with their client, to declare them again after a lost lease.
    pub(super) exclusive: HashMap<String, (u64, Topology)>,
}

impl Queues {
    pub(super) fn get(&self, name: &str) -> Option<Arc<QueueEntry>> {
        self.by_name.get(name).map(Arc::clone)
    }

    pub(super) fn by_id(&self, id: i64) -> Option<Arc<QueueEntry>> {
        self.names.get(&id).map(Arc::clone)
    }

    /// The queues that get a message.
    ///
    /// # Errors
    /// When there is no such exchange.
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

    /// What is known may come from a transaction that was rolled back.
    pub(super) fn forget(&mut self) {
        self.generation = 0;
        self.is_suspect = true;
    }

    /// All exchanges with their bindings.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &(Exchange, Vec<Binding>)> {
        self.exchanges.values()
    }

    /// One of them.
    pub(super) fn exchange(&self, name: &str) -> Option<&(Exchange, Vec<Binding>)> {
        self.exchanges.get(name)
    }

    /// An exclusive queue that is declared again is not bound in this way any more.
    pub(super) fn forget_binding(&mut self, binding: &Binding) {
        if let Some((_, topology)) = self.exclusive.get_mut(&binding.queue) {
            topology.bindings.retain(|known| known != binding);
        }
    }

    /// True for an exchange that goes with its last binding.
    pub(super) fn is_passing(&self, exchange: &str) -> bool {
        self.exchanges.get(exchange).is_some_and(|(known, _)| known.auto_delete)
    }

    /// The client of a queue does not want it any more.
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
