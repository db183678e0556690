//! What is written into the log of the schedulers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use super::record::Record;
use crate::schedule::Schedule;

/// An entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A schedule, from now on.
    Put { schedule: Box<Schedule>, origin: Origin, program: String, since: DateTime<Utc> },
    /// What this origin said about the name is no longer so.
    Remove { name: String, origin: Origin },
    /// Nothing is sent until it is resumed, or until then.
    Pause { name: String, until: Option<DateTime<Utc>> },
    /// What is due from now on is sent again.
    Resume { name: String, since: DateTime<Utc> },
    /// A scheduler wants to lead: it does if it is the first of its term.
    Lead { leader: String, term: u64 },
    /// The leader lives, and has sent what was to be sent until then. All that counts was written after `base`.
    Mark { leader: String, term: u64, at: DateTime<Utc>, base: u64, era: u32 },
    /// The leader has stopped in good order.
    Leave { leader: String },
    /// The call of a due time is in its queue. Written in one step with it, at this moment.
    Sent {
        name: String,
        due: DateTime<Utc>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<DateTime<Utc>>,
    },
    /// Somebody sent a call by hand.
    Ran { name: String, id: String, on: DateTime<Utc> },
    /// The call of a due time waits for the end of the one before.
    Waits { name: String, due: DateTime<Utc> },
    /// A due time that is not sent: the one before still runs, or the call cannot be sent.
    Skipped { name: String, due: DateTime<Utc> },
    /// The queue refused a call whose copy the log has: it was not sent.
    Refused { name: String, due: DateTime<Utc> },
    /// The clock was set back to this time.
    Reset { at: DateTime<Utc>, era: u32 },
    /// All that is known of a schedule, written again so that the beginning of the log can be forgotten.
    Keep { name: String, record: Box<Record> },
}

impl Entry {
    /// The schedule that it changes for everybody.
    pub(crate) fn changes(&self) -> Option<&str> {
        match self {
            Self::Put { schedule, .. } => Some(&schedule.name),
            Self::Remove { name, .. } | Self::Pause { name, .. } | Self::Resume { name, .. } => Some(name),
            _ => None,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("names are texts, and JSON has all of these values")
    }
}
