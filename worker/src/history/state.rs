//! The states of a call in the history, and which of two reported states counts.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Serialize, Serializer};

use crate::error::Error;

/// Events closer together than this are not ordered by time: the clocks of two machines may differ by as much.
const SKEW: TimeDelta = TimeDelta::seconds(1);

/// The state of a call, derived from its events. These are Celery's states, and two that Celery does not have: a call
/// that waits for its time, and one that is in a dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobState {
    /// It was sent; no worker has received it.
    Pending,
    /// A worker has received it.
    Received,
    /// It waits for its time.
    Delayed,
    /// A worker runs it.
    Started,
    /// It failed and waits for its retry.
    Retry,
    /// A worker rejected it.
    Rejected,
    /// It was revoked, or has expired.
    Revoked,
    /// It failed permanently.
    Failure,
    /// It failed permanently and is in a dead-letter queue.
    DeadLettered,
    /// It succeeded.
    Success,
}

/// Every state with its number in the file and its name.
const STATES: [(JobState, i64, &str); 10] = [
    (JobState::Pending, 0, "PENDING"),
    (JobState::Received, 1, "RECEIVED"),
    (JobState::Delayed, 2, "DELAYED"),
    (JobState::Started, 3, "STARTED"),
    (JobState::Retry, 4, "RETRY"),
    (JobState::Rejected, 5, "REJECTED"),
    (JobState::Revoked, 6, "REVOKED"),
    (JobState::Failure, 7, "FAILURE"),
    (JobState::DeadLettered, 8, "DEAD_LETTERED"),
    (JobState::Success, 9, "SUCCESS"),
];

impl JobState {
    /// Every state, in the order of a call's life.
    pub fn all() -> impl Iterator<Item = JobState> {
        STATES.iter().map(|(state, ..)| *state)
    }

    /// The name, as Celery writes it.
    pub fn as_str(self) -> &'static str {
        STATES.iter().find(|(state, ..)| *state == self).map_or("PENDING", |(_, _, name)| name)
    }

    /// True if the call will not run again by itself.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Success | Self::Failure | Self::DeadLettered | Self::Revoked | Self::Rejected)
    }

    pub(super) fn code(self) -> i64 {
        STATES.iter().find(|(state, ..)| *state == self).map_or(0, |(_, code, _)| *code)
    }

    pub(super) fn from_code(code: i64) -> Self {
        STATES.iter().find(|(_, known, _)| *known == code).map_or(Self::Pending, |(state, ..)| *state)
    }

    /// Celery's order of precedence (`celery.states`): of two reports at about the same time the higher one counts.
    fn precedence(self) -> u8 {
        match self {
            Self::Success => 9,
            Self::DeadLettered => 8,
            Self::Failure => 7,
            Self::Revoked => 6,
            Self::Started => 5,
            Self::Delayed => 4,
            Self::Received => 3,
            Self::Rejected => 2,
            Self::Retry => 1,
            Self::Pending => 0,
        }
    }
}

/// Whether a reported state replaces the known one.
///
/// Events arrive late, twice and from machines whose clocks differ. Within a second, precedence decides, as in Celery;
/// beyond that, the later report wins, so that a replayed dead letter shows as running again. A retry is ordered by
/// time alone: the states before and after it are the same.
pub(super) fn replaces(
    (known, known_at): (JobState, DateTime<Utc>),
    (new, new_at): (JobState, DateTime<Utc>),
) -> bool {
    if new == JobState::Pending {
        // The sender's clock cannot be compared with a worker's: a worker's report always wins.
        return false;
    }
    let difference = new_at - known_at;
    if known == JobState::Pending {
        true
    } else if known == JobState::DeadLettered && new == JobState::Failure {
        difference > SKEW
    } else if known == JobState::Retry || new == JobState::Retry {
        !(known.is_final() && difference <= SKEW) && difference >= TimeDelta::zero()
    } else if difference.abs() > SKEW {
        difference > TimeDelta::zero()
    } else {
        new.precedence() >= known.precedence()
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for JobState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let name = text.to_ascii_uppercase().replace('-', "_");
        let found = STATES.iter().find(|(.., known)| *known == name);
        found.map(|(state, ..)| *state).ok_or_else(|| {
            let known: Vec<String> = STATES.iter().map(|(.., name)| name.to_ascii_lowercase()).collect();
            Error::config(format!("no state `{text}`: expected one of {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use JobState::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_000 + millis).expect("a time")
    }

    #[test]
    fn the_report_that_counts() {
        for (known, known_at, new, new_at, expected) in [
            (Pending, 0, Received, -500, true),
            (Success, 0, Started, -5, false),
            (Success, 0, Started, 5, false),
            (Started, 0, Success, -5, true),
            (Received, 0, Pending, 60_000, false),
            // A retry, and what comes before and after it.
            (Started, 0, Retry, 10, true),
            (Retry, 10, Started, 0, false),
            (Retry, 10, Started, 20, true),
            (Retry, 10, Success, 20, true),
            (Success, 20, Retry, 10, false),
            (Success, 20, Retry, 25, false),
            // A dead letter is a failure, whichever event comes first.
            (Failure, 0, DeadLettered, 0, true),
            (DeadLettered, 0, Failure, 0, false),
            (Failure, 0, Success, 500, true),
            (Success, 0, Failure, 500, false),
            // Replayed later.
            (DeadLettered, 0, Received, 5_000, true),
            (DeadLettered, 0, Failure, 5_000, true),
            (Started, 5_000, DeadLettered, 0, false),
        ] {
            let found = replaces((known, at(known_at)), (new, at(new_at)));
            assert_eq!(found, expected, "{known} at {known_at}, then {new} at {new_at}");
        }
    }

    #[test]
    fn names_are_read_in_any_case() {
        for state in JobState::all() {
            assert_eq!(state.as_str().to_ascii_lowercase().parse::<JobState>().expect("known"), state);
            assert_eq!(JobState::from_code(state.code()), state);
        }
        assert_eq!("dead-lettered".parse::<JobState>().expect("known"), DeadLettered);
        let error = "gone".parse::<JobState>().expect_err("unknown").to_string();
        assert!(error.starts_with("no state `gone`: expected one of pending, received"), "{error}");
    }
}
