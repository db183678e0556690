//! The tasks that a worker is running, for health checks and remote control.
//!
//! Every task passes through here twice on the hot path, so nothing is stored that can be computed on request: the list
//! holds the call's context, which exists anyway, and its start time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::task::{Context, Registry};

/// The running tasks, and how many calls of each task were started.
#[derive(Debug, Default)]
pub(crate) struct RunningTasks {
    slots: Mutex<Slots>,
    begun: BTreeMap<&'static str, AtomicU64>,
}

#[derive(Debug, Default)]
struct Slots {
    tasks: Vec<Option<RunningTask>>,
    free: Vec<usize>,
}

/// A running task.
#[derive(Clone, Debug)]
pub(crate) struct RunningTask {
    /// The call.
    pub(crate) context: Context,
    /// When it started to run.
    pub(crate) since: Instant,
    /// True when its message is already acked.
    pub(crate) acknowledged: bool,
}

/// A task's entry in the list; dropping it removes the task.
#[derive(Debug)]
pub(crate) struct ListedTask<'a> {
    list: &'a RunningTasks,
    slot: usize,
}

impl RunningTasks {
    /// An empty list for these tasks.
    pub(crate) fn new(registry: &Registry) -> Self {
        let begun = registry.iter().map(|task| (task.name, AtomicU64::new(0))).collect();
        Self { slots: Mutex::default(), begun }
    }

    /// Lists a task for as long as the returned entry is held.
    pub(crate) fn enter(&self, context: &Context, since: Instant, acknowledged: bool) -> ListedTask<'_> {
        if let Some(count) = self.begun.get(context.task()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let task = Some(RunningTask { context: context.clone(), since, acknowledged });
        let mut slots = self.slots.lock().expect("never poisoned");
        let slot = match slots.free.pop() {
            Some(slot) => {
                slots.tasks[slot] = task;
                slot
            }
            None => {
                slots.tasks.push(task);
                slots.tasks.len() - 1
            }
        };
        drop(slots);
        ListedTask { list: self, slot }
    }

    /// How many tasks are running.
    pub(crate) fn count(&self) -> usize {
        let slots = self.slots.lock().expect("never poisoned");
        slots.tasks.len() - slots.free.len()
    }

    /// All running tasks, the longest-running first.
    pub(crate) fn list(&self) -> Vec<RunningTask> {
        let slots = self.slots.lock().expect("never poisoned");
        let mut tasks: Vec<RunningTask> = slots.tasks.iter().flatten().cloned().collect();
        drop(slots);
        tasks.sort_by_key(|task| task.since);
        tasks
    }

    /// How many calls of each task were started; tasks without any are left out.
    pub(crate) fn begun(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let count = |(name, count): (&&'static str, &AtomicU64)| (*name, count.load(Ordering::Relaxed));
        self.begun.iter().map(count).filter(|(_, count)| *count > 0)
    }
}

impl Drop for ListedTask<'_> {
    fn drop(&mut self) {
        let mut slots = self.list.slots.lock().expect("never poisoned");
        let task = slots.tasks[self.slot].take();
        slots.free.push(self.slot);
        drop(slots);
        // Dropping the last handle of a call may free a large message: do it after the lock is released.
        drop(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_listed_while_it_runs() {
        let list = RunningTasks::default();
        let first = list.enter(&Context::detached(), Instant::now(), false);
        let second = list.enter(&Context::detached(), Instant::now(), false);
        assert_eq!((list.count(), list.list().len()), (2, 2));
        drop(first);
        assert_eq!((list.count(), list.list().len()), (1, 1));
        let third = list.enter(&Context::detached(), Instant::now(), false);
        // Free entries are reused: the list is never longer than the highest number of tasks at once.
        assert_eq!((list.count(), list.slots.lock().expect("fine").tasks.len()), (2, 2));
        drop((second, third));
        assert_eq!((list.count(), list.list().len()), (0, 0));
    }
}
