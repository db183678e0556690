//! Quarantine: the last run of a message that is suspected of killing its workers.
//!
//! When a worker dies, there is no way to know which of its messages was to blame, so a crash is counted for all of them.
//! The last run before the limit is different: the message runs alone in a separate process, like an isolated task. If that
//! process dies, the message is to blame: it is dead-lettered, and the worker keeps running.
//!
//! Before that run, a note in the broker records that the quarantine has started. If the message is delivered again after
//! that, its worker died although the message was in another process. It is then quarantined again, as many times as it may
//! crash, in case it does kill its worker from there. Other suspects that the dying worker held have no note and lose
//! nothing. Every copy of a message has its own quarantine name: after an error, a stop or a replay, the old note does not
//! apply to the next run.
//!
//! A worker that cannot start its program again for a single task (`Worker::without_isolation`, `Worker::with_state`, no
//! `run_isolated`, Windows) runs a suspect in its own process. No other message with a crash count runs beside it then, and
//! a suspect with a note is dead-lettered at once. A message without a crash count may still run beside it; if that one
//! kills the worker, the suspect is blamed.
//!
//! Without a register for notes in the broker, suspects cannot be told apart, so every crash counts.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The longest wait in the broker while another message is in quarantine.
const PAUSE: Duration = Duration::from_secs(1);
/// The wait grows in proportion to the messages with a crash count, once there are more than this: otherwise some would
/// always be in transit.
const CROWD: f64 = 10.0;

/// What the crash count of a delivery means for its next run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashVerdict {
    /// It runs like any other.
    Run,
    /// It runs in quarantine.
    RunAlone,
    /// It has reached the limit.
    DeadLetter,
    /// The crash is counted in the message, which is sent again.
    SendAgain,
}

/// What is known about the crashes of a delivery.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CrashFacts {
    /// How many workers died while they held the message: the broker's count and the header's.
    pub(crate) count: u32,
    /// The part of the count that workers have written into the header.
    pub(crate) in_header: u32,
    /// It was delivered before, and the broker does not say whether that worker crashed.
    pub(crate) uncounted: bool,
    /// A message with this many crashes is dead-lettered.
    pub(crate) limit: u32,
    /// Each quarantine has its own process.
    pub(crate) isolated: bool,
}

impl CrashFacts {
    /// True for a message that the next crash would dead-letter. With a limit of one crash there is no such run, and a
    /// header with a higher count than any worker writes is not trusted.
    pub(crate) fn is_suspect(&self) -> bool {
        self.limit > 1
            && self.in_header <= self.most_written()
            && self.count > 0
            && self.count.saturating_add(1) >= self.limit
    }

    /// True when the crashes reach the limit, assuming that the message caused the last one. For a suspect, a note decides
    /// that.
    pub(crate) fn is_at_limit(&self) -> bool {
        self.count.saturating_add(self.uncounted.into()) >= self.limit
    }

    /// The highest count that a worker writes into a message: every crash below the limit, and one for each quarantine
    /// whose worker died outside of it.
    fn most_written(&self) -> u32 {
        let below = self.limit.saturating_sub(1);
        if self.isolated { below.saturating_add(self.limit) } else { below }
    }

    /// The count that the message keeps. Crashes that it did not cause leave it one run.
    pub(crate) fn kept(&self, verdict: CrashVerdict) -> u32 {
        match verdict {
            CrashVerdict::DeadLetter => self.count,
            _ => self.count.min(self.limit.saturating_sub(1)).max(self.in_header),
        }
    }
}

/// Decides on the next run of a delivery. `noted`: its quarantine has started before.
pub(crate) fn verdict(facts: &CrashFacts, noted: bool) -> CrashVerdict {
    let has_crashed = facts.is_at_limit();
    match facts.is_suspect() {
        false if has_crashed => CrashVerdict::DeadLetter,
        false if facts.uncounted => CrashVerdict::SendAgain,
        false => CrashVerdict::Run,
        true if !(has_crashed && noted) => CrashVerdict::RunAlone,
        // It ran in another process when its worker died, which proves nothing yet.
        true if facts.isolated && facts.in_header < facts.most_written() => CrashVerdict::SendAgain,
        true => CrashVerdict::DeadLetter,
    }
}

/// The quarantine of one worker.
#[derive(Debug)]
pub(crate) struct Quarantine {
    /// Write-locked by the running suspect, read-locked by other messages with a crash count. `None` where each quarantine
    /// has its own process.
    room: Option<RwLock<()>>,
    /// How many messages with a crash count this worker holds.
    present: AtomicUsize,
    /// Read-locked while a crash is counted: its copy is sent, and the original not acknowledged yet.
    counting: RwLock<()>,
}

/// A message with a crash count, until it is settled.
#[derive(Debug)]
pub(crate) struct CrashedMessage<'a>(&'a Quarantine);

impl Quarantine {
    /// `isolated`: each quarantine has its own process.
    pub(crate) fn new(isolated: bool) -> Self {
        Self {
            room: (!isolated).then(RwLock::default),
            present: AtomicUsize::new(0),
            counting: RwLock::default(),
        }
    }

    /// Held while a crash is counted.
    pub(crate) async fn counting(&self) -> RwLockReadGuard<'_, ()> {
        self.counting.read().await
    }

    /// Waits until every crash whose copy was sent is counted, and its original acknowledged.
    pub(crate) async fn counted(&self) {
        drop(self.counting.write().await);
    }

    /// Counts one more message.
    pub(crate) fn enter(&self) -> CrashedMessage<'_> {
        self.present.fetch_add(1, Ordering::AcqRel);
        CrashedMessage(self)
    }

    /// How long to wait for the next chance to run. Random, so that waiting messages do not all return at once.
    pub(crate) fn pause(&self) -> Duration {
        let present = self.present.load(Ordering::Acquire) as f64;
        PAUSE.mul_f64((present / CROWD).max(1.0) * (0.25 + 0.75 * fastrand::f64()))
    }
}

impl CrashedMessage<'_> {
    /// Lets a suspect run while no other message with a crash count runs.
    pub(crate) fn run_alone(&self) -> Option<Option<RwLockWriteGuard<'_, ()>>> {
        self.0.room.as_ref().map(RwLock::try_write).transpose().ok()
    }

    /// Lets a message that is not a suspect run while no message is in quarantine.
    pub(crate) fn run_beside_others(&self) -> Option<Option<RwLockReadGuard<'_, ()>>> {
        self.0.room.as_ref().map(RwLock::try_read).transpose().ok()
    }
}

impl Drop for CrashedMessage<'_> {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: CrashFacts =
        CrashFacts { count: 0, in_header: 0, uncounted: false, limit: 3, isolated: true };

    #[test]
    fn crashes_are_counted_up_to_the_last_run_which_is_alone() {
        let facts = |count, uncounted| CrashFacts { count, in_header: count, uncounted, ..FACTS };
        for (facts, expected) in [
            (facts(0, false), CrashVerdict::Run),
            (facts(0, true), CrashVerdict::SendAgain),
            (facts(1, false), CrashVerdict::Run),
            (facts(1, true), CrashVerdict::SendAgain),
            (facts(2, false), CrashVerdict::RunAlone),
            (facts(2, true), CrashVerdict::RunAlone),
            // Only the broker counts this many, when other messages were to blame.
            (CrashFacts { count: 9, ..FACTS }, CrashVerdict::RunAlone),
            // No worker writes this.
            (facts(6, false), CrashVerdict::DeadLetter),
            (CrashFacts { limit: 1, ..facts(0, true) }, CrashVerdict::DeadLetter),
        ] {
            assert_eq!(verdict(&facts, false), expected, "{facts:?}");
        }
    }

    #[test]
    fn a_noted_quarantine_speaks_against_a_message_that_crashed_again() {
        let facts = |in_header, isolated| CrashFacts { count: 3, in_header, isolated, ..FACTS };
        for (facts, expected) in [
            (CrashFacts { count: 2, ..FACTS }, CrashVerdict::RunAlone),
            (facts(2, false), CrashVerdict::DeadLetter),
            (facts(2, true), CrashVerdict::SendAgain),
            (facts(4, true), CrashVerdict::SendAgain),
            (facts(5, true), CrashVerdict::DeadLetter),
        ] {
            assert_eq!(verdict(&facts, true), expected, "{facts:?}");
        }
    }

    #[test]
    fn a_crash_that_is_not_its_own_leaves_a_message_one_run() {
        let facts = CrashFacts { count: 9, in_header: 1, ..FACTS };
        assert_eq!([CrashVerdict::RunAlone, CrashVerdict::DeadLetter].map(|v| facts.kept(v)), [2, 9]);
        assert_eq!(CrashFacts { in_header: 4, ..facts }.kept(CrashVerdict::SendAgain), 4);
    }

    #[test]
    fn no_other_crashed_message_runs_beside_one_in_quarantine_and_the_wait_grows_with_their_number() {
        let quarantine = Quarantine::new(false);
        let crashed: Vec<CrashedMessage<'_>> = (0..100).map(|_| quarantine.enter()).collect();
        let alone = crashed[0].run_alone().expect("no other runs");
        assert!(crashed[1].run_alone().is_none() && crashed[2].run_beside_others().is_none());
        drop(alone);
        let beside = [1, 2].map(|index| crashed[index].run_beside_others().expect("none is in quarantine"));
        assert!(crashed[0].run_alone().is_none());
        drop(beside);
        assert!(crashed[0].run_alone().is_some());
        let pause = quarantine.pause();
        assert!((Duration::from_millis(2500)..=Duration::from_secs(10)).contains(&pause), "{pause:?}");
        drop(crashed);
        let _one = quarantine.enter();
        let pause = quarantine.pause();
        assert!((Duration::from_millis(250)..=Duration::from_secs(1)).contains(&pause), "{pause:?}");
    }

    #[test]
    fn in_processes_of_their_own_no_message_is_in_the_way_of_another() {
        let quarantine = Quarantine::new(true);
        let [one, another, third] = [quarantine.enter(), quarantine.enter(), quarantine.enter()];
        let alone = [one.run_alone(), another.run_alone()];
        assert!(alone.iter().all(Option::is_some) && third.run_beside_others().is_some());
    }
}
