//! The logical clock by which Celery orders what nodes say to each other.

use std::sync::atomic::{AtomicU64, Ordering};

/// A Lamport clock: a count that is always above every count that was seen.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The count now.
    pub fn now(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Something is sent: the count that it carries.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Something arrived that carries a count.
    pub fn adjust(&self, theirs: u64) {
        // A count from somebody who is out of his mind must not make ours wrap around.
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
