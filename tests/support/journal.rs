//! What the tasks of a test tell it: lines under a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use mq_worker::SharedState;

/// Shared by a test and its tasks. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Mutex<HashMap<String, Vec<String>>>>);

impl Journal {
    /// Adds a line.
    pub fn write(&self, key: &str, line: impl Into<String>) {
        self.0.lock().expect("not poisoned").entry(key.into()).or_default().push(line.into());
    }

    /// The lines under a key, as they came.
    pub fn read(&self, key: &str) -> Vec<String> {
        self.0.lock().expect("not poisoned").get(key).cloned().unwrap_or_default()
    }

    /// The lines under a key in alphabetical order: what runs at the same time has no other.
    pub fn sorted(&self, key: &str) -> Vec<String> {
        let mut lines = self.read(key);
        lines.sort();
        lines
    }

    /// Forgets all lines.
    pub fn clear(&self) {
        self.0.lock().expect("not poisoned").clear();
    }

    /// A state for a worker that holds this journal.
    pub fn shared(&self) -> SharedState {
        let mut state = SharedState::default();
        state.insert(self.clone());
        state
    }
}
