//! What a broker remembers beside messages: notes on ids, and locks. Both lapse by themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// A list of notes on ids of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// These are not to be run.
    Revoked,
    /// These have been run to a success.
    Done,
    /// These were run alone, since they may have taken workers down.
    Tried,
    /// These queues and tasks are paused; a note that has lapsed ends an earlier one.
    Paused,
}

impl Register {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Revoked, Self::Done, Self::Tried, Self::Paused];

    /// The name under which a broker keeps it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "mq-worker.revoked",
            Self::Done => "mq-worker.done",
            Self::Tried => "mq-worker.tried",
            Self::Paused => "mq-worker.paused",
        }
    }

    /// The longest time for which a note may hold.
    pub fn longest(self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        match self {
            Self::Revoked => DAY.saturating_mul(7),
            Self::Done | Self::Tried => DAY,
            // In practice until it is taken back.
            Self::Paused => DAY.saturating_mul(3650),
        }
    }
}

/// One note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The id of a task.
    pub id: String,
    /// Until when it holds.
    pub until: DateTime<Utc>,
    /// What is [revoked](Register::Revoked) is to be stopped where it runs, whether it listens or not. Once noted it
    /// stays so as long as a note holds: a later note without it takes nothing back.
    pub by_force: bool,
}

impl Note {
    /// A note that holds for so long from now on.
    pub fn new(id: impl Into<String>, lifetime: Duration) -> Self {
        let until =
            chrono::Duration::from_std(lifetime).ok().and_then(|time| Utc::now().checked_add_signed(time));
        Self { id: id.into(), until: until.unwrap_or(DateTime::<Utc>::MAX_UTC), by_force: false }
    }
}

/// What was noted, up to the moment of the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The notes, the oldest first. Some may have lapsed, or be there twice; then what is to be done by force is so in
    /// one of them.
    pub notes: Vec<Note>,
    /// Where to go on reading.
    pub next: u64,
}

/// A key that one holder has at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// What is locked: at most 200 bytes.
    pub key: String,
    /// Who has it: the id of a task. Whoever has it may take it again.
    pub holder: String,
    /// When it opens by itself.
    pub lifetime: Duration,
}

/// What came of an attempt to take a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// It is ours.
    Taken,
    /// Somebody else has it: who, where the broker can tell.
    Held(Option<String>),
}
