//! Throttles login attempts.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How many failed attempts are possible without a wait.
const FREE: u32 = 5;
/// The wait after [`FREE`] failed attempts; each further one doubles it.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// The longest wait. After this time without an attempt, all failures are forgotten.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// The most addresses or users to remember.
const MOST: usize = 10_000;

/// Failed attempts by address or by user.
#[derive(Debug)]
pub(crate) struct Throttle<K>(HashMap<K, Attempts>);

#[derive(Debug)]
struct Attempts {
    wrong: u32,
    last: Instant,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Returns how long this key must wait before the next attempt.
    pub(super) fn wait(&self, key: &K, now: Instant) -> Option<Duration> {
        let attempts = self.0.get(key)?;
        let over = attempts.wrong.checked_sub(FREE)?;
        let wait = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST_WAIT);
        wait.checked_sub(now.saturating_duration_since(attempts.last)).filter(|left| !left.is_zero())
    }

    /// Records a failed attempt.
    pub(super) fn failed(&mut self, key: K, now: Instant) {
        if self.0.len() >= MOST {
            self.0.retain(|_, attempts| now.saturating_duration_since(attempts.last) < LONGEST_WAIT);
        }
        if self.0.len() >= MOST && !self.0.contains_key(&key) {
            return;
        }
        let attempts = self.0.entry(key).or_insert(Attempts { wrong: 0, last: now });
        if now.saturating_duration_since(attempts.last) >= LONGEST_WAIT {
            attempts.wrong = 0;
        }
        attempts.wrong = attempts.wrong.saturating_add(1);
        attempts.last = now;
    }

    /// Clears the failures after a successful attempt.
    pub(super) fn succeeded(&mut self, key: &K) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_attempt_doubles_the_wait() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        for _ in 0..FREE - 1 {
            throttle.failed("a", start);
            assert_eq!(throttle.wait(&"a", start), None);
        }
        for seconds in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            throttle.failed("a", start);
            assert_eq!(throttle.wait(&"a", start), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(throttle.wait(&"b", start), None, "others need not wait");
        assert_eq!(throttle.wait(&"a", start + LONGEST_WAIT), None);
        throttle.failed("a", start + LONGEST_WAIT);
        assert_eq!(throttle.wait(&"a", start + LONGEST_WAIT), None, "forgiven after a long pause");
        throttle.succeeded(&"a");
        assert_eq!(throttle.wait(&"a", start), None);
    }
}
