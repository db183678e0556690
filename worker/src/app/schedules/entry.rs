//! The entries of the schedule log.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::origin::Origin;
use super::record::Record;
use crate::schedule::Schedule;

/// An entry of the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A schedule is added or replaced.
    Put { schedule: Box<Schedule>, origin: Origin, program: String, since: DateTime<Utc> },
    /// The schedule with this name and origin is removed.
    Remove { name: String, origin: Origin },
    /// The schedule is paused until it is resumed, or until this time.
    Pause { name: String, until: Option<DateTime<Utc>> },
    /// The pause has ended: calls due from `since` on are sent again.
    Resume { name: String, since: DateTime<Utc> },
    /// A scheduler claims the lead: the first claim of a term wins.
    Lead { leader: String, term: u64 },
    /// The leader is alive and has sent every call due until `at`. Only entries after `base` count.
    Mark { leader: String, term: u64, at: DateTime<Utc>, base: u64, era: u32 },
    /// The leader has stopped cleanly.
    Leave { leader: String },
    /// The call of a due time is in its queue. Written in one step with it, at the time `on`.
    Sent {
        name: String,
        due: DateTime<Utc>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        on: Option<DateTime<Utc>>,
    },
    /// A call was sent by hand.
    Ran { name: String, id: String, on: DateTime<Utc> },
    /// The call of a due time waits for the previous call to end.
    Waits { name: String, due: DateTime<Utc> },
    /// A due time is skipped: the previous call still runs, or the call cannot be sent.
    Skipped { name: String, due: DateTime<Utc> },
    /// The queue refused the call of a due time, whose copy may be in the log: it and all later ones were not sent.
    Refused { name: String, due: DateTime<Utc> },
    /// The clock was set back to this time.
    Reset { at: DateTime<Utc>, era: u32 },
    /// Everything known about a schedule, written again so that the start of the log can be dropped.
    Keep { name: String, record: Box<Record> },
}

impl Entry {
    /// The schedule of which other calls are to be sent after this entry.
    pub(crate) fn changes(&self) -> Option<&str> {
        match self {
            Self::Put { schedule, .. } => Some(&schedule.name),
            Self::Remove { name, .. }
            | Self::Pause { name, .. }
            | Self::Resume { name, .. }
            | Self::Refused { name, .. } => Some(name),
            _ => None,
        }
    }

    pub(crate) fn to_text(&self) -> String {
        serde_json::to_string(self).expect("names are texts, and JSON has all of these values")
    }
}
