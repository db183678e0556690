//! Everything known about a call and its surroundings, gathered before any conclusion is drawn.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::app::Pause;
use crate::history::Job;
use crate::state::State;

/// The facts about one call. Unknown ones are `None` or empty.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The id of the call.
    pub(crate) id: String,
    /// What the history knows.
    pub(crate) job: Option<Job>,
    /// Its result, if a backend keeps it.
    pub(crate) result: Option<ResultFacts>,
    /// The task, if known.
    pub(crate) task: Option<String>,
    /// The queue, if known.
    pub(crate) queue: Option<QueueFacts>,
    /// The schedule that sent it, and when it was due.
    pub(crate) schedule: Option<ScheduleFacts>,
    /// Its message, if it was found in a queue.
    pub(crate) waiting: Option<WaitingFacts>,
    /// Its dead letter, if it was found.
    pub(crate) dead: Option<DeadFacts>,
    /// The worker that reports it as running.
    pub(crate) running: Option<RunningFacts>,
    /// The workers that replied; `None` if none could be asked.
    pub(crate) workers: Option<Vec<WorkerFacts>>,
    /// It is in the register of revoked calls.
    pub(crate) is_revoked: bool,
    /// It is in the register of calls that have succeeded.
    pub(crate) is_done: bool,
    /// It is in the register of calls that were run in quarantine.
    pub(crate) is_quarantined: bool,
    /// The pause of its queue.
    pub(crate) queue_pause: Option<Pause>,
    /// The pause of its task.
    pub(crate) task_pause: Option<Pause>,
    /// The other call that holds its lock.
    pub(crate) lock_holder: Option<String>,
    /// What could not be found out, and why.
    pub(crate) gaps: Vec<String>,
}

/// A result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultFacts {
    pub(crate) state: State,
    pub(crate) error: Option<String>,
    pub(crate) done_at: Option<DateTime<Utc>>,
}

/// The schedule that sent the call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ScheduleFacts {
    pub(crate) name: String,
    pub(crate) due: Option<DateTime<Utc>>,
}

/// The queue of the call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueueFacts {
    pub(crate) name: String,
    /// `None` if there is no such queue.
    pub(crate) ready: Option<u64>,
}

/// Its message in a queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WaitingFacts {
    pub(crate) queue: String,
    /// How many messages are delivered before it.
    pub(crate) ahead: u64,
    /// The time it waits for, if it is delayed.
    pub(crate) until: Option<DateTime<Utc>>,
}

/// Its dead letter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DeadFacts {
    pub(crate) queue: String,
    pub(crate) reason: Option<String>,
    pub(crate) error: Option<String>,
    pub(crate) died_at: Option<String>,
}

/// Where it runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RunningFacts {
    pub(crate) worker: String,
    pub(crate) since: Option<DateTime<Utc>>,
}

/// A worker that replied.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WorkerFacts {
    pub(crate) name: String,
    pub(crate) queues: Vec<String>,
    /// The names of its tasks; empty if it did not report them.
    pub(crate) tasks: Vec<String>,
    pub(crate) running: Option<u64>,
    pub(crate) slots: Option<u64>,
    pub(crate) is_stopping: bool,
}
