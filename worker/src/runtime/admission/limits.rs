//! The time limits of a call.

use std::time::Duration;

use crate::message::Headers;
use crate::task::{TaskEntry, TaskOptions};

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Then it is stopped and has failed.
    pub(crate) hard: Option<Duration>,
    /// Then its cancellation token fires.
    pub(crate) soft: Option<Duration>,
}

impl Limits {
    /// Those of a message, else those of its task.
    pub(crate) fn of(task: Option<&TaskEntry>, headers: &Headers) -> Self {
        let options = task.map_or(TaskOptions::DEFAULT, |task| task.options);
        let (hard, soft) = headers.time_limits();
        Self { hard: hard.or(options.time_limit), soft: soft.or(options.soft_time_limit) }
    }
}
