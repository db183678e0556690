//! Lines that the tasks of a test write under a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mq_worker::SharedState;

/// A journal shared by a test and its tasks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Journal {
    /// Adds a line.
    pub fn write(&self, key: &str, line: impl Into<String>) {
        self.0.lock().expect("not poisoned").entry(key.into()).or_default().push(line.into());
    }

    /// Returns the lines under a key in the order of arrival.
    pub fn read(&self, key: &str) -> Vec<String> {
        self.0.lock().expect("not poisoned").get(key).cloned().unwrap_or_default()
    }

    /// Returns the lines under a key in alphabetical order, since concurrent tasks have no other.
    pub fn sorted(&self, key: &str) -> Vec<String> {
        let mut lines = self.read(key);
        lines.sort();
        lines
    }

    /// Removes all lines.
    pub fn clear(&self) {
        self.0.lock().expect("not poisoned").clear();
    }

    /// Returns a state for a worker that contains this journal.
    pub fn shared(&self) -> SharedState {
        let mut state = SharedState::default();
        state.insert(self.clone());
        state
    }
}
