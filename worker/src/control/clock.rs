//! The logical clock that Celery uses to order the messages between nodes.

use std::sync::atomic::{AtomicU64, Ordering};

/// A Lamport clock: a count that is always above every count that was seen.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The current count.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Advances the clock to send a message, and returns the count that it carries.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Moves the clock beyond the count of a received message.
    pub fn adjust(&self, theirs: u64) {
        // An absurd count from another node must not make ours wrap around.
        let theirs = theirs.min(u64::MAX >> 1);
        self.0.fetch_max(theirs, Ordering::Relaxed);
        self.forward();
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn the_clock_is_ahead_of_all_that_it_saw() {
        let clock = Clock::default();
        assert_eq!(clock.forward(), 1);
        clock.adjust(41);
        assert_eq!(clock.now(), 42);
        clock.adjust(7);
        assert_eq!(clock.now(), 43);
        clock.adjust(u64::MAX);
        assert!(clock.forward() > 43);
    }
}
