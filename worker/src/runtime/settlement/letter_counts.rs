//! Counts the dead letters that this worker has written, to tell them apart from the broker's.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many letters this worker has written to each dead-letter queue, to tell them apart from the broker's.
#[derive(Default)]
pub(crate) struct LetterCounts(Mutex<HashMap<String, u64>>);

impl LetterCounts {
    /// Counts a letter that is about to be written.
    pub(crate) fn add(&self, queue: &str) {
        *self.counts().entry(queue.to_owned()).or_default() += 1;
    }

    pub(super) fn of(&self, queue: &str) -> u64 {
        self.counts().get(queue).copied().unwrap_or_default()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<String, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
