//! The lease of this process on what it has claimed, and what it knows of its neighbours' leases.
//!
//! Every process that holds something has one row in `owner` and changes its `beat` once a second: one small
//! write, however many claims it has. A neighbour is dead when its beat has not changed during [`DEAD_AFTER`] beats
//! of our own. Neither clock is compared with another's: a clock that is set expires no owner, and as both
//! beats need the same lock, a lock that is held for long stops both.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a process says that it lives.
const BEAT: Duration = Duration::from_secs(1);
/// After this many of our own heartbeats without one of theirs, their messages are requeued.
pub(super) const DEAD_AFTER: u32 = 5;

/// What this process knows about itself and its neighbours as owners.
#[derive(Default)]
pub(super) struct Lease {
    pub(super) id: Option<i64>,
    last_beat: Option<Instant>,
    /// When the running transaction got the lock.
    pub(super) begun: Option<Instant>,
    /// Beat of each neighbour, and for how many of our own beats it has been that.
    pub(super) seen: HashMap<i64, (i64, u32)>,
}

impl Lease {
    /// Our row in `owner`, if we have one.
    pub(super) fn id(&self) -> Option<i64> {
        self.id
    }

    pub(super) fn next_beat(&self) -> Option<Instant> {
        self.id?;
        self.last_beat.map(|last| last + BEAT)
    }

    pub(super) fn is_beat_due(&self) -> bool {
        self.next_beat().is_some_and(|next| next <= Instant::now())
    }

    /// The beat is committed.
    pub(super) fn has_beaten(&mut self) {
        self.last_beat = self.begun;
    }

    /// The transaction was rolled back, and with it what was counted in it.
    pub(super) fn undo(&mut self, joined: bool) {
        self.seen.clear();
        if joined {
            self.id = None;
        }
    }

    /// The row is gone.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}
