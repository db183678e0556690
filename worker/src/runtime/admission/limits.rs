//! The time limits of a call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::message::Headers;
use crate::task::{TaskEntry, TaskOptions};

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// After this time it is stopped and has failed.
    pub(crate) hard: Option<Duration>,
    /// After this time its cancellation token fires.
    pub(crate) soft: Option<Duration>,
}

impl Limits {
    /// The limits of a message, or else those of its task.
    pub(crate) fn of(task: Option<&TaskEntry>, headers: &Headers) -> Self {
        let options = task.map_or(TaskOptions::DEFAULT, |task| task.options);
        let (hard, soft) = headers.time_limits();
        Self { hard: hard.or(options.time_limit), soft: soft.or(options.soft_time_limit) }
    }
}

/// Time limits of tasks that were changed at run time. They apply to calls that start afterwards.
#[derive(Debug, Default)]
pub(crate) struct ChangedLimits {
    /// Checked for each message, so that most workers never take the lock.
    any: AtomicBool,
    of_tasks: Mutex<HashMap<String, Limits>>,
}

impl ChangedLimits {
    /// Overrides the limits of a task.
    pub(crate) fn set(&self, task: &str, limits: Limits) {
        let mut of_tasks = self.of_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        of_tasks.insert(task.to_owned(), limits);
        self.any.store(true, Ordering::Release);
    }

    /// The limits of a call: those of its message, or else the latest ones of its task.
    pub(crate) fn of(&self, task: &TaskEntry, headers: &Headers) -> Limits {
        let own = Limits::of(Some(task), headers);
        if !self.any.load(Ordering::Acquire) {
            return own;
        }
        let of_tasks = self.of_tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(changed) = of_tasks.get(task.name) else { return own };
        let (hard, soft) = headers.time_limits();
        Limits { hard: hard.or(changed.hard), soft: soft.or(changed.soft) }
    }
}
