//! The queues that a worker consumes, which remote control may change while it runs.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::routing::Topology;

/// The queues of one worker, including paused ones.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    queues: Vec<String>,
    /// The queues with their exchanges and bindings, as they were declared.
    topology: Topology,
}

impl Sources {
    /// Creates the list of the queues at startup.
    pub(crate) fn new(queues: Vec<String>, topology: Topology) -> Self {
        Self(Mutex::new(State { queues, topology }))
    }

    /// The names of the queues.
    pub(crate) fn queues(&self) -> Vec<String> {
        self.state().queues.clone()
    }

    /// The topology, as it was declared.
    pub(crate) fn topology(&self) -> Topology {
        self.state().topology.clone()
    }

    /// Adds a declared queue; false if it is already listed.
    pub(crate) fn add(&self, queue: &str, topology: Topology) -> bool {
        let mut state = self.state();
        state.topology.merge(topology);
        let is_new = !state.queues.iter().any(|known| known == queue);
        if is_new {
            state.queues.push(queue.to_owned());
        }
        is_new
    }

    /// Removes a queue; false if it is not listed.
    pub(crate) fn remove(&self, queue: &str) -> bool {
        let mut state = self.state();
        let before = state.queues.len();
        state.queues.retain(|known| known != queue);
        state.queues.len() < before
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
