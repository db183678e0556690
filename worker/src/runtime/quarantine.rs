//! The trial of a message that has taken workers down, and is put aside when it does so once more.
//!
//! When a worker dies, nobody can tell which of the messages in its hands was to blame, so a crash is counted for all
//! of them. The last one is not: a message that has one life left runs in a process of its own, like an isolated task.
//! If that process dies, the message alone is to blame, and is put aside; the worker lives.
//!
//! Before it runs, the broker is told in a note that its trial has begun. If it comes again after that, the worker died
//! although the message was not in it: it has another trial, as often as it has lives, in case that it does kill its
//! worker. Whatever else on its last life was in the worker's hands, or on the way to them, has no note and keeps
//! its life. Each copy that is sent again has a trial with another name: after an error, a worker that stops, or a
//! replay, the note says nothing about the next.
//!
//! A worker that cannot start its program once more for one task (`Worker::without_isolation`, a state of its own, no
//! `run_isolated`, Windows) holds the trial in its own process. Then no other message that has taken workers down runs
//! beside it, and the one with a note that comes again is put aside at once. One that has never taken a worker down may
//! still do so beside it, and it is blamed for that.
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
    /// Written by the one on trial, read by those that have more lives. None where trials are in other processes.
    room: Option<RwLock<()>>,
    /// How many messages that have taken workers down are in this worker's hands.
    present: AtomicUsize,
}

/// One of those messages; dropped when it is settled.
#[derive(Debug)]
pub(super) struct Suspect<'a>(&'a Trial);

impl Trial {
    /// `apart` where each is in a process of its own.
    pub(super) fn new(apart: bool) -> Self {
        Self { room: (!apart).then(RwLock::default), present: AtomicUsize::new(0) }
    }

    /// One more is here.
    pub(super) fn enter(&self) -> Suspect<'_> {
        self.present.fetch_add(1, Ordering::AcqRel);
        Suspect(self)
    }
}

impl Suspect<'_> {
    /// The right to run on its last life, while no other of them runs.
    pub(super) fn be_tried(&self) -> Option<Option<RwLockWriteGuard<'_, ()>>> {
        self.0.room.as_ref().map(RwLock::try_write).transpose().ok()
    }

    /// The right to run with lives to spare, while none is on trial.
    pub(super) fn run_beside_others(&self) -> Option<Option<RwLockReadGuard<'_, ()>>> {
        self.0.room.as_ref().map(RwLock::try_read).transpose().ok()
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
        let trial = Trial::new(false);
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

    #[test]
    fn in_processes_of_their_own_nobody_is_in_the_way_of_another() {
        let trial = Trial::new(true);
        let [one, another, third] = [trial.enter(), trial.enter(), trial.enter()];
        let tried = [one.be_tried(), another.be_tried()];
        assert!(tried.iter().all(Option::is_some) && third.run_beside_others().is_some());
    }
}
