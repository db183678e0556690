//! Whether the result backend was away a moment ago.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a store that has just failed is not queried.
const REST: Duration = Duration::from_secs(1);

/// Remembers for a moment that the store is away, so that tasks do not wait for it one after another.
#[derive(Debug, Default)]
pub(crate) struct BackendAway(Mutex<Option<Instant>>);

impl BackendAway {
    /// True if it has failed a moment ago.
    pub(crate) fn is_known(&self, now: Instant) -> bool {
        let since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| now.saturating_duration_since(since) < REST)
    }

    /// Records a failure.
    pub(crate) fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_known_for_a_moment() {
        let away = BackendAway::default();
        let now = Instant::now();
        assert!(!away.is_known(now));
        away.note();
        assert!(away.is_known(now) && !away.is_known(Instant::now() + REST));
    }
}
