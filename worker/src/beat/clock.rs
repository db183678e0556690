//! The current time, and whether the clock was set back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// After a smaller step back the scheduler just waits until the clock has caught up: time servers make small corrections.
const SET_BACK: TimeDelta = TimeDelta::seconds(60);
/// A mark this far ahead was written by a clock that was wrong, not by one that is a little fast.
const WRONG: TimeDelta = TimeDelta::hours(1);

/// A source of the current time.
#[derive(Clone)]
pub(super) struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Utc::now))
    }
}

impl Clock {
    pub(super) fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    pub(super) fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }
}

/// Compares the clock with the time that has actually passed.
pub(super) struct Watch {
    seen: DateTime<Utc>,
    at: Instant,
}

impl Watch {
    pub(super) fn new(now: DateTime<Utc>) -> Self {
        Self { seen: now, at: Instant::now() }
    }

    /// True if the clock was set back since the last check.
    pub(super) fn is_set_back(&mut self, now: DateTime<Utc>) -> bool {
        let is_set_back = is_behind(self.seen, self.at.elapsed(), now);
        *self = Self::new(now);
        is_set_back
    }
}

fn is_behind(seen: DateTime<Utc>, passed: Duration, now: DateTime<Utc>) -> bool {
    let expected = seen + TimeDelta::from_std(passed).unwrap_or_default();
    now + SET_BACK < expected
}

/// True if the mark, up to which everything was sent, is far in the future.
pub(super) fn was_wrong(mark: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
    mark.is_some_and(|mark| now + WRONG < mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_goes_back_by_more_than_a_minute_was_set_back() {
        let seen = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        for (passed, moved, expected) in [
            (1, 1, false),
            (1, 7200, false),
            (1, -50, false),
            (1, -61, true),
            (1, -7200, true),
            // A machine that slept: its clock went on, but the monotonic clock may not have.
            (0, 30_000, false),
            (100, 30, true),
        ] {
            let now = seen + TimeDelta::seconds(moved);
            assert_eq!(is_behind(seen, Duration::from_secs(passed), now), expected, "{passed} {moved}");
        }
        assert!(!was_wrong(None, seen));
        assert!(!was_wrong(Some(seen + TimeDelta::minutes(59)), seen));
        assert!(was_wrong(Some(seen + TimeDelta::hours(2)), seen));
    }
}
