//! The trial of a message that has taken workers down, and is put aside when it does so once more.
//!
//! When a worker dies, nobody can tell which of the messages in its hands was to blame, so a crash is counted for all
//! of them. The last one is not: before a message that has one life left runs again, the broker is told so in a note,
//! and no other message that has taken workers down runs beside it. If it comes again after that, it alone is to blame,
//! and is put aside. Whatever else on its last life was in the worker's hands, or on the way to them, has no note and
//! keeps its life.
//!
//! A broker without a register for notes cannot tell the two apart: there every crash counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How long a message waits in the broker, at most, while another one is on trial.
const PAUSE: Duration = Duration::from_secs(1);
/// For each so many of them that are here together they stay away longer: else some would always be on their way.
const CROWD: f64 = 10.0;

/// One worker's court.
#[derive(Debug)]
pub(super) struct Trial {
    /// Written by the one on trial, read by those that have more lives.
    room: RwLock<()>,
    /// How many messages that have taken workers down are in this worker's hands.
    present: AtomicUsize,
}

/// One of those messages; dropped when it is settled.
#[derive(Debug)]
pub(super) struct Suspect<'a>(&'a Trial);

impl Trial {
    pub(super) fn new() -> Self {
        Self { room: RwLock::new(()), present: AtomicUsize::new(0) }
    }

    /// One more is here.
    pub(super) fn enter(&self) -> Suspect<'_> {
        self.present.fetch_add(1, Ordering::AcqRel);
        Suspect(self)
    }
}

impl Suspect<'_> {
    /// The right to run on its last life, while no other of them runs.
    pub(super) fn be_tried(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.0.room.try_write().ok()
    }

    /// The right to run with lives to spare, while none is on trial.
    pub(super) fn run_beside_others(&self) -> Option<RwLockReadGuard<'_, ()>> {
        self.0.room.try_read().ok()
    }

    /// How long to wait for the next chance. Never in step with the others.
    pub(super) fn pause(&self) -> Duration {
        let present = self.0.present.load(Ordering::Acquire) as f64;
        PAUSE.mul_f64((present / CROWD).max(1.0) * (0.25 + 0.75 * fastrand::f64()))
    }
}

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_runs_beside_the_one_on_trial_and_the_more_there_are_the_longer_they_wait() {
        let trial = Trial::new();
        let suspects: Vec<Suspect<'_>> = (0..100).map(|_| trial.enter()).collect();
        let tried = suspects[0].be_tried().expect("nobody else is tried");
        assert!(suspects[1].be_tried().is_none() && suspects[2].run_beside_others().is_none());
        drop(tried);
        let beside = [1, 2].map(|index| suspects[index].run_beside_others().expect("none is tried"));
        assert!(suspects[0].be_tried().is_none());
        drop(beside);
        assert!(suspects[0].be_tried().is_some());
        let pause = suspects[2].pause();
        assert!((Duration::from_millis(2500)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        drop(suspects);
        let pause = trial.enter().pause();
        assert!((Duration::from_millis(250)..=Duration::from_secs(1)).contains(&pause), "{pause:?}");
    }
}
