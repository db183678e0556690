//! The lease of this process on its claims, and its view of the leases of its neighbours.
//!
//! Every process that holds claims has one row in `owner` and changes its `beat` once a second: one small write, however
//! many claims it has. A neighbour is dead if its beat has not changed during [`DEAD_AFTER`] beats of our own. Clocks are
//! never compared across processes, so that setting a clock expires no owner; and as all beats need the same lock, a lock
//! that is held for long stops all of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The interval of heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// The number of our own heartbeats without one of a neighbour after which its messages are requeued.
const DEAD_AFTER: u32 = 5;

/// This process and its neighbours as owners of claims.
#[derive(Default)]
pub(super) struct Lease {
    id: Option<i64>,
    last_beat: Option<Instant>,
    /// When the current transaction got the lock.
    begun: Option<Instant>,
    /// The beat of each neighbour, and for how many of our own beats it has not changed.
    seen: HashMap<i64, (i64, u32)>,
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

    /// Records that the current transaction has got the lock.
    pub(super) fn begin(&mut self) {
        self.begun = Some(Instant::now());
    }

    /// Records that this process has a row in `owner`.
    pub(super) fn has_joined(&mut self, id: i64) {
        self.id = Some(id);
    }

    /// Counts one beat of our own, and returns those of the neighbours, given with their beats, that are dead by now.
    pub(super) fn expired_neighbours(&mut self, neighbours: &[(i64, i64)]) -> Vec<i64> {
        self.seen.retain(|id, _| neighbours.iter().any(|(known, _)| known == id));
        let mut dead = Vec::new();
        for &(id, beat) in neighbours {
            let (last, silent) = self.seen.entry(id).or_insert((beat, 0));
            if *last != beat {
                (*last, *silent) = (beat, 0);
                continue;
            }
            *silent += 1;
            if *silent > DEAD_AFTER {
                dead.push(id);
            }
        }
        dead
    }

    /// Records that the beat is committed.
    pub(super) fn beat_is_committed(&mut self) {
        self.last_beat = self.begun;
    }

    /// Undoes a transaction that was rolled back, and starts counting the beats of neighbours anew.
    pub(super) fn undo(&mut self, joined: bool) {
        self.seen.clear();
        if joined {
            self.id = None;
        }
    }

    /// Forgets everything, since the row in `owner` is gone.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [i64; 0] = [];

    #[test]
    fn a_neighbour_is_dead_after_more_than_five_of_our_beats_without_one_of_its_own() {
        let mut lease = Lease::default();
        for beat in 0..5 {
            assert_eq!(lease.expired_neighbours(&[(1, beat), (2, 7)]), NONE);
        }
        assert_eq!(lease.expired_neighbours(&[(1, 5), (2, 7)]), [2]);
    }

    #[test]
    fn a_beat_an_absence_and_a_rollback_begin_the_count_anew() {
        let forget: [fn(&mut Lease); 3] = [
            |lease| assert_eq!(lease.expired_neighbours(&[(2, 8)]), NONE),
            |lease| assert_eq!(lease.expired_neighbours(&[]), NONE),
            |lease| lease.undo(false),
        ];
        for forget in forget {
            let mut lease = Lease::default();
            for _ in 0..5 {
                assert_eq!(lease.expired_neighbours(&[(2, 7)]), NONE);
            }
            forget(&mut lease);
            assert_eq!(lease.expired_neighbours(&[(2, 7)]), NONE);
        }
    }
}
