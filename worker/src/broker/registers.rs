//! What a broker stores besides messages: registers of task ids, and locks. Notes and locks expire by themselves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use super::unable;
use crate::error::Result;

/// A small durable list of task ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Register {
    /// Calls that must not run.
    Revoked,
    /// Calls that have succeeded.
    Done,
    /// Calls that were run in quarantine.
    Quarantined,
    /// Queues and tasks that are paused. A later note that has already expired ends the pause.
    Paused,
}

impl Register {
    /// All registers.
    pub const ALL: [Self; 4] = [Self::Revoked, Self::Done, Self::Quarantined, Self::Paused];

    /// The name of the register on a broker.
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => "mq-worker.revoked",
            Self::Done => "mq-worker.done",
            Self::Quarantined => "mq-worker.quarantined",
            Self::Paused => "mq-worker.paused",
        }
    }

    /// The longest lifetime of a note.
    pub fn max_lifetime(self) -> Duration {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        match self {
            Self::Revoked => DAY.saturating_mul(7),
            Self::Done | Self::Quarantined => DAY,
            // In practice, until the pause is ended.
            Self::Paused => DAY.saturating_mul(3650),
        }
    }
}

/// An entry of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The id of a task.
    pub id: String,
    /// When the note expires.
    pub until: DateTime<Utc>,
    /// True if a [revoked](Register::Revoked) call is also stopped while it runs. A later note without it does not undo
    /// an earlier one that has not expired.
    pub terminate: bool,
}

impl Note {
    /// A note that expires after `lifetime`.
    pub fn new(id: impl Into<String>, lifetime: Duration) -> Self {
        let until =
            chrono::Duration::from_std(lifetime).ok().and_then(|time| Utc::now().checked_add_signed(time));
        Self { id: id.into(), until: until.unwrap_or(DateTime::<Utc>::MAX_UTC), terminate: false }
    }
}

/// The notes of a register, up to the moment of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// The notes, oldest first. Some may have expired. An id may occur twice; then `terminate` applies if either of them has
    /// it.
    pub notes: Vec<Note>,
    /// Where to continue reading.
    pub next: u64,
}

/// A lock: a key that has one holder at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// The key: at most 200 bytes.
    pub key: String,
    /// The holder: the id of a task. It may take the lock again.
    pub holder: String,
    /// How long the lock is held unless it is released earlier.
    pub lifetime: Duration,
}

/// The result of an attempt to take a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// The lock was taken.
    Taken,
    /// Another holder has it; its name, if the broker reports it.
    Held(Option<String>),
}

/// The registers and locks of a broker, for revoked calls, duplicates, quarantine and unique tasks.
///
/// An operation that the broker does not support returns an [`is_unsupported`](crate::Error::is_unsupported) error.
pub trait Registers: Send + Sync + 'static {
    /// Records an id in a register, for at most [`Register::max_lifetime`]. `Ok` means that the note is as durable as a message.
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        let _ = (register, note);
        unable("keep notes on tasks")
    }

    /// All notes recorded before this call, starting at [`Notes::next`] of an earlier result; 0 is the beginning.
    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        let _ = (register, from);
        unable("keep notes on tasks")
    }

    /// The notes since an earlier result that are visible now; a note that is just being recorded may not be returned until
    /// the next call. For polling: unlike [`notes`](Self::notes), it writes nothing to the register.
    fn newer_notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        self.notes(register, from)
    }

    /// True if the id was recorded before this call, at most `lifetime` ago, and the note has not expired.
    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        let _ = (register, id, lifetime);
        unable("keep notes on tasks")
    }

    /// Takes a lock, unless another holder has it. The lock survives the process and a restart of the broker. If the
    /// same holder takes it again, it is extended, never shortened.
    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        let _ = lock;
        unable("keep locks for unique tasks")
    }

    /// Extends a lock for a holder that waits: the lock is held during the wait and for its lifetime afterwards, as far
    /// as the broker can extend it. If it has expired, it is taken again.
    fn extend_lock<'a>(&'a self, lock: &'a Lock, wait: Duration) -> BoxFuture<'a, Result<Locked>> {
        let longer = Lock { lifetime: lock.lifetime.saturating_add(wait), ..lock.clone() };
        Box::pin(async move { self.lock(&longer).await })
    }

    /// Releases a lock. The lock of another holder is not changed.
    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        let _ = lock;
        unable("keep locks for unique tasks")
    }
}
