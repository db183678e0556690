//! The trial of a message that has taken workers down, and is put aside when it does so once more.
//!
//! When a worker dies, nobody can tell which of the messages in its hands was to blame, so a crash is counted for all
//! of them. The last one is not: before a message that has one life left runs again, the broker is told so in a note,
//! and one such message runs at a time. If it comes again after that, it alone is to blame, and is put aside. Whatever
//! else on its last life was in the worker's hands, or on the way to them, has no note and keeps its life.
//!
//! A broker without a register for notes cannot tell the two apart: there every crash counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// How long a message waits in the broker, at most, while another one is on trial.
const PAUSE: Duration = Duration::from_secs(1);
/// For each so many of them that are here together they stay away longer: else some would always be on their way.
const CROWD: f64 = 10.0;

/// One worker's court.
#[derive(Debug)]
pub(super) struct Trial {
    seat: Semaphore,
    /// How many messages on their last life are in this worker's hands.
    present: AtomicUsize,
}

/// One of those messages; dropped when it is settled.
#[derive(Debug)]
pub(super) struct Suspect<'a>(&'a Trial);

impl Trial {
    pub(super) fn new() -> Self {
        Self { seat: Semaphore::new(1), present: AtomicUsize::new(0) }
    }

    /// One more is here.
    pub(super) fn enter(&self) -> Suspect<'_> {
        self.present.fetch_add(1, Ordering::AcqRel);
        Suspect(self)
    }
}

impl Suspect<'_> {
    /// The right to run, while no other one has it.
    pub(super) fn take_seat(&self) -> Option<SemaphorePermit<'_>> {
        self.0.seat.try_acquire().ok()
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
    fn one_is_on_trial_at_a_time_and_the_more_there_are_the_longer_they_wait() {
        let trial = Trial::new();
        let suspects: Vec<Suspect<'_>> = (0..100).map(|_| trial.enter()).collect();
        let seat = suspects[0].take_seat().expect("the seat is free");
        assert!(suspects[1].take_seat().is_none());
        drop(seat);
        assert!(suspects[1].take_seat().is_some());
        let pause = suspects[2].pause();
        assert!((Duration::from_millis(2500)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        drop(suspects);
        let pause = trial.enter().pause();
        assert!((Duration::from_millis(250)..=Duration::from_secs(1)).contains(&pause), "{pause:?}");
    }
}
