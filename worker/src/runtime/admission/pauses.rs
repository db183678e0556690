//! Paused queues and tasks, as far as this worker knows.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::app::pause::Pausable;

/// The longest time that a message of a paused task waits before it is checked again.
const LONGEST: Duration = Duration::from_secs(60);

/// Queues that this worker must not consume, and tasks that it must not run.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    /// Checked for each message, so that most workers never take the lock.
    any: AtomicBool,
    state: Mutex<State>,
    /// Set when the messages that wait for a slot must be checked again.
    changed: AtomicBool,
    /// Wakes the pipe after a change.
    wake: Notify,
    /// Wakes the reader of the register.
    look: Notify,
}

#[derive(Debug, Default)]
struct State {
    ends: BTreeMap<Pausable, DateTime<Utc>>,
    /// Paused queues that are no longer consumed.
    detached: HashSet<String>,
}

/// How a delivery of a queue is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueState {
    Open,
    /// Paused, but more of its messages may still arrive.
    Closing,
    /// Paused and not consumed.
    Detached,
}

impl Pauses {
    /// When the pause of a task ends, if it is paused.
    pub(crate) fn end_of_task(&self, task: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.state().ends.get(&Pausable::Task(task.to_owned())).copied().filter(|end| *end > now)
    }

    /// When the pause of a queue ends.
    pub(crate) fn end_of_queue(&self, queue: &str) -> Option<DateTime<Utc>> {
        self.state().ends.get(&Pausable::Queue(queue.to_owned())).copied()
    }

    pub(crate) fn of_queue(&self, queue: &str) -> QueueState {
        if !self.any.load(Ordering::Acquire) {
            return QueueState::Open;
        }
        let state = self.state();
        let end = state.ends.get(&Pausable::Queue(queue.to_owned()));
        match end.is_some_and(|end| *end > Utc::now()) {
            false => QueueState::Open,
            true if state.detached.contains(queue) => QueueState::Detached,
            true => QueueState::Closing,
        }
    }

    /// Returns the queues that are not paused.
    pub(crate) fn open<'a>(&self, queues: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        let is_open = |queue: &&String| self.of_queue(queue) == QueueState::Open;
        queues.into_iter().filter(is_open).cloned().collect()
    }

    /// When the next pause expires.
    pub(crate) fn next_end(&self) -> Option<DateTime<Utc>> {
        let now = Utc::now();
        self.state().ends.values().filter(|end| **end > now).min().copied()
    }

    /// Replaces all known pauses.
    pub(crate) fn replace(&self, ends: BTreeMap<Pausable, DateTime<Utc>>) {
        self.change(|state| state.ends = ends);
    }

    /// Sets the end of one pause; a time in the past ends it.
    pub(crate) fn set(&self, what: Pausable, until: DateTime<Utc>) {
        self.change(|state| {
            state.ends.insert(what, until);
        });
        self.look();
    }

    /// Records which queues are no longer consumed.
    pub(crate) fn set_detached(&self, queues: HashSet<String>) {
        self.change(|state| state.detached = queues);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        let now = Utc::now();
        state.ends.retain(|_, end| *end > now);
        // When the last pause ends, messages that are held back must still be checked once more.
        self.any.store(!state.ends.is_empty(), Ordering::Release);
        drop(state);
        self.touch();
    }

    /// Makes the pipe check its waiting messages again.
    pub(crate) fn touch(&self) {
        self.changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// True once after each change.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.load(Ordering::Acquire) && self.changed.swap(false, Ordering::AcqRel)
    }

    /// Resolves after a change.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Requests a read of the register: a pause or resume may have been missed.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    /// Resolves when the register must be read.
    pub(crate) fn missed(&self) -> Notified<'_> {
        self.look.notified()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a message of a paused task waits in the broker: about as long as it has waited already, so that a long pause
/// costs little, and no longer than the pause. `random` in `0.0..1.0` spreads messages that were held at the same time.
pub(crate) fn wait(held: u32, left: chrono::Duration, random: f64) -> Duration {
    let wait = Duration::from_secs(1).saturating_mul(1 << held.min(16)).min(LONGEST);
    wait.mul_f64(0.75 + random / 2.0).min(left.to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> Pausable {
        Pausable::Queue(name.into())
    }

    #[test]
    fn the_waits_of_a_held_message_double_and_end_with_the_pause() {
        let seconds = |held, left| wait(held, chrono::Duration::seconds(left), 0.5).as_secs();
        assert_eq!([0, 1, 3, 6, 100].map(|held| seconds(held, 1000)), [1, 2, 8, 60, 60]);
        assert_eq!(seconds(6, 5), 5);
        assert_eq!(wait(3, chrono::Duration::seconds(-1), 0.5), Duration::ZERO);
    }

    #[test]
    fn a_queue_is_closing_until_it_is_detached_and_open_after_the_end() {
        let pauses = Pauses::default();
        assert!(!pauses.take_change());
        let soon = Utc::now() + chrono::Duration::hours(1);
        pauses.set(queue("a"), soon);
        assert!(pauses.take_change() && !pauses.take_change());
        assert_eq!((pauses.of_queue("a"), pauses.of_queue("b")), (QueueState::Closing, QueueState::Open));
        pauses.set_detached(HashSet::from(["a".into()]));
        assert_eq!(pauses.of_queue("a"), QueueState::Detached);
        assert_eq!(pauses.open(&["a".to_owned(), "b".to_owned()]), ["b"]);
        pauses.set(queue("a"), DateTime::UNIX_EPOCH);
        assert_eq!((pauses.of_queue("a"), pauses.next_end()), (QueueState::Open, None));
    }

    #[test]
    fn a_task_and_a_queue_of_one_name_are_two_things() {
        let pauses = Pauses::default();
        let now = Utc::now();
        pauses.replace(BTreeMap::from([(Pausable::Task("a".into()), now + chrono::Duration::hours(1))]));
        assert!(pauses.end_of_task("a", now).is_some());
        assert_eq!(pauses.of_queue("a"), QueueState::Open);
        assert!(pauses.end_of_task("a", now + chrono::Duration::hours(2)).is_none());
    }
}
