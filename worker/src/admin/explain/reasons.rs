//! Why a call is not running: conclusions from facts, the most important first.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::facts::{Facts, WorkerFacts};
use crate::history::{Job, JobState};
use crate::show;
use crate::state::State;

/// One reason why a call is not running, or its state if it is not waiting.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub(crate) enum Reason {
    /// It runs.
    Running { worker: String, since: Option<DateTime<Utc>> },
    /// It succeeded.
    Succeeded { at: Option<DateTime<Utc>>, worker: Option<String> },
    /// It failed permanently.
    Failed { at: Option<DateTime<Utc>>, worker: Option<String>, error: Option<String> },
    /// It is in a dead-letter queue.
    DeadLettered { queue: String, why: Option<String>, error: Option<String>, at: Option<String> },
    /// It was revoked.
    Revoked { at: Option<DateTime<Utc>> },
    /// A worker rejected it.
    Rejected { worker: Option<String>, why: Option<String> },
    /// It expired before it could run.
    Expired { at: DateTime<Utc> },
    /// It waits for its time.
    WaitsUntil { until: DateTime<Utc> },
    /// It failed and will be retried.
    WaitsForRetry { retries: u32, error: Option<String> },
    /// Its worker has died, or does not reply.
    LostWorker { worker: String, since: Option<DateTime<Utc>> },
    /// Its queue does not exist.
    NoQueue { queue: String },
    /// Its queue is paused.
    QueuePaused { queue: String, until: Option<DateTime<Utc>> },
    /// Its task is paused.
    TaskPaused { task: String, until: Option<DateTime<Utc>> },
    /// No worker consumes from its queue.
    NoWorkerForQueue { queue: String, others: Vec<String> },
    /// No worker of its queue has its task.
    NoWorkerForTask { task: String, queue: String, workers: Vec<String> },
    /// Another call has the lock of its unique task.
    LockHeld { holder: String },
    /// All slots of the workers of its queue are taken.
    NoFreeSlot { queue: String, workers: usize, slots: u64 },
    /// Other messages are ahead of it.
    BehindOthers { queue: String, ahead: u64 },
    /// A worker has received it, and will run it when it can.
    Reserved { worker: String },
    /// It was a suspected poison message, and was run in quarantine.
    Quarantined,
    /// It waits, and nothing is in its way.
    Next { queue: String },
    /// It is not known anywhere.
    Unknown,
}

/// Draws conclusions from the facts, the most important first. Never empty.
pub(crate) fn explain(facts: &Facts, now: DateTime<Utc>) -> Vec<Reason> {
    if let Some(running) = &facts.running {
        return vec![Reason::Running { worker: running.worker.clone(), since: running.since }];
    }
    let mut reasons: Vec<Reason> = ended(facts).into_iter().collect();
    if reasons.is_empty() {
        reasons = waiting(facts, now);
    }
    if facts.is_quarantined
        && !matches!(reasons.first(), Some(Reason::Succeeded { .. } | Reason::Running { .. }))
    {
        reasons.push(Reason::Quarantined);
    }
    reasons
}

/// How the call has ended, if it has.
fn ended(facts: &Facts) -> Option<Reason> {
    let job = facts.job.as_ref();
    let state = job.map(|job| job.state);
    // A waiting message is newer than anything recorded.
    if facts.waiting.is_some() && facts.dead.is_none() {
        return facts.is_revoked.then_some(Reason::Revoked { at: None });
    }
    if let Some(dead) = &facts.dead {
        let error = dead.error.clone().or_else(|| job?.error.clone());
        let why = dead.reason.clone().or_else(|| job?.reason.clone());
        return Some(Reason::DeadLettered {
            queue: dead.queue.clone(),
            why,
            error,
            at: dead.died_at.clone(),
        });
    }
    let at = job.and_then(|job| job.finished_at);
    let worker = job.and_then(|job| job.worker.clone());
    if let Some(result) = facts.result.as_ref().filter(|result| result.state.is_ready()) {
        let at = result.done_at.or(at);
        return Some(match result.state {
            State::Success => Reason::Succeeded { at, worker },
            State::Revoked => Reason::Revoked { at },
            _ => Reason::Failed { at, worker, error: result.error.clone().or_else(|| job?.error.clone()) },
        });
    }
    match state {
        Some(JobState::Success) => Some(Reason::Succeeded { at, worker }),
        Some(JobState::Failure) => Some(Reason::Failed { at, worker, error: job?.error.clone() }),
        // Its dead letter has been dropped, or replayed without an event.
        Some(JobState::DeadLettered) => {
            let job = job?;
            let error = job.error.clone().or_else(|| job.reason.clone());
            Some(Reason::Failed { at, worker, error })
        }
        Some(JobState::Revoked) => Some(Reason::Revoked { at }),
        Some(JobState::Rejected) => Some(Reason::Rejected { worker, why: job?.reason.clone() }),
        _ if facts.is_done => Some(Reason::Succeeded { at: None, worker: None }),
        _ if facts.is_revoked => Some(Reason::Revoked { at: None }),
        _ => None,
    }
}

/// What a call waits for if it has not ended and is not running.
fn waiting(facts: &Facts, now: DateTime<Utc>) -> Vec<Reason> {
    let job = facts.job.as_ref();
    if job.is_none() && facts.waiting.is_none() && facts.result.is_none() {
        return vec![Reason::Unknown];
    }
    let mut reasons = Vec::new();
    if let Some(at) = job.and_then(|job| job.expires).filter(|at| *at <= now) {
        reasons.push(Reason::Expired { at });
    }
    let until = facts.waiting.as_ref().and_then(|waiting| waiting.until).or_else(|| job?.eta);
    if let Some(until) = until.filter(|until| *until > now) {
        reasons.push(Reason::WaitsUntil { until });
    }
    if let Some(job) = job.filter(|job| job.state == JobState::Retry) {
        reasons
            .push(Reason::WaitsForRetry { retries: job.retries.saturating_add(1), error: job.error.clone() });
    }
    if let Some(queue) = facts.queue.as_ref().filter(|queue| queue.ready.is_none()) {
        reasons.push(Reason::NoQueue { queue: queue.name.clone() });
        return reasons;
    }
    let queue = facts.queue.as_ref().map(|queue| queue.name.clone());
    if let (Some(pause), Some(queue)) = (&facts.queue_pause, queue.clone()) {
        reasons.push(Reason::QueuePaused { queue, until: pause.until });
    }
    if let (Some(pause), Some(task)) = (&facts.task_pause, facts.task.clone()) {
        reasons.push(Reason::TaskPaused { task, until: pause.until });
    }
    if let Some(holder) = facts.lock_holder.clone() {
        reasons.push(Reason::LockHeld { holder });
    }
    reasons.extend(lost_or_reserved(facts, job));
    reasons.extend(about_workers(facts, queue.as_deref()));
    if let Some(waiting) = facts.waiting.as_ref().filter(|waiting| waiting.ahead > 0) {
        reasons.push(Reason::BehindOthers { queue: waiting.queue.clone(), ahead: waiting.ahead });
    }
    if reasons.is_empty() {
        match facts.waiting.as_ref().map(|waiting| waiting.queue.clone()).or(queue) {
            Some(queue) => reasons.push(Reason::Next { queue }),
            None => reasons.push(Reason::Unknown),
        }
    }
    reasons
}

/// Where a call is that a worker has received, unless its message is back in a queue.
fn lost_or_reserved(facts: &Facts, job: Option<&Job>) -> Option<Reason> {
    let job = job.filter(|_| facts.waiting.is_none())?;
    let worker = job.worker.clone()?;
    let replied = facts.workers.as_ref().map(|workers| workers.iter().any(|one| one.name == worker));
    match (job.state, replied) {
        (JobState::Started, _) => Some(Reason::LostWorker { worker, since: job.started_at }),
        (JobState::Received, Some(true)) => Some(Reason::Reserved { worker }),
        (JobState::Received, _) => Some(Reason::LostWorker { worker, since: job.received_at }),
        _ => None,
    }
}

/// Whether there is a worker that could run it.
fn about_workers(facts: &Facts, queue: Option<&str>) -> Option<Reason> {
    let (queue, workers) = (queue?, facts.workers.as_ref()?);
    let of_queue: Vec<&WorkerFacts> = workers
        .iter()
        .filter(|worker| !worker.is_stopping && worker.queues.iter().any(|name| name == queue))
        .collect();
    let names = |workers: &[&WorkerFacts]| workers.iter().map(|worker| worker.name.clone()).collect();
    // A paused queue has no consumers, however many workers there are for it.
    if of_queue.is_empty() {
        let others: Vec<&WorkerFacts> = workers.iter().collect();
        return (facts.queue_pause.is_none())
            .then(|| Reason::NoWorkerForQueue { queue: queue.to_owned(), others: names(&others) });
    }
    if let Some(task) = &facts.task {
        let knows = |worker: &&WorkerFacts| worker.tasks.is_empty() || worker.tasks.contains(task);
        if !of_queue.iter().any(knows) {
            let (task, queue) = (task.clone(), queue.to_owned());
            return Some(Reason::NoWorkerForTask { task, queue, workers: names(&of_queue) });
        }
    }
    let is_full = |worker: &&WorkerFacts| worker.slots.is_some() && worker.running >= worker.slots;
    of_queue.iter().all(is_full).then(|| Reason::NoFreeSlot {
        queue: queue.to_owned(),
        workers: of_queue.len(),
        slots: of_queue.iter().filter_map(|worker| worker.slots).sum(),
    })
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on =
            |worker: &Option<String>| worker.as_ref().map_or_else(String::new, |one| format!(" on {one}"));
        let at =
            |at: &Option<DateTime<Utc>>| at.map_or_else(String::new, |at| format!(" at {}", show::time(at)));
        let ends = |until: &Option<DateTime<Utc>>| {
            until.map_or_else(String::new, |until| format!(" until {}", show::time(until)))
        };
        let colon =
            |text: &Option<String>| text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
        match self {
            Self::Running { worker, since } => {
                let since = since.map_or_else(String::new, |since| format!(" since {}", show::time(since)));
                write!(f, "it is running on {worker}{since}")
            }
            Self::Succeeded { at: when, worker } => write!(f, "it succeeded{}{}", at(when), on(worker)),
            Self::Failed { at: when, worker, error } => {
                write!(f, "it failed{}{}{}", at(when), on(worker), colon(error))
            }
            Self::DeadLettered { queue, why, error, at } => {
                let at = at.as_ref().map_or_else(String::new, |at| format!(" since {at}"));
                let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
                write!(f, "it is in the dead-letter queue `{queue}`{at}{why}{}", colon(error))
            }
            Self::Revoked { at: when } => write!(f, "it was revoked{} and will not run", at(when)),
            Self::Rejected { worker, why } => write!(f, "it was rejected{}{}", on(worker), colon(why)),
            Self::Expired { at } => write!(f, "it expired at {}: a worker will discard it", show::time(*at)),
            Self::WaitsUntil { until } => write!(f, "it is scheduled for {}", show::time(*until)),
            Self::WaitsForRetry { retries, error } => {
                write!(f, "it failed and waits for retry {retries}{}", colon(error))
            }
            Self::LostWorker { worker, since } => {
                let since = since.map_or_else(String::new, |since| format!(" since {}", show::time(since)));
                write!(
                    f,
                    "{worker} has had it{since} and does not report it as running: if the worker died, the broker delivers \
                     it again"
                )
            }
            Self::NoQueue { queue } => write!(f, "its queue `{queue}` does not exist"),
            Self::QueuePaused { queue, until } => write!(f, "its queue `{queue}` is paused{}", ends(until)),
            Self::TaskPaused { task, until } => write!(f, "its task `{task}` is paused{}", ends(until)),
            Self::NoWorkerForQueue { queue, others } if others.is_empty() => {
                write!(f, "no worker replied, so none consumes from its queue `{queue}`")
            }
            Self::NoWorkerForQueue { queue, others } => write!(
                f,
                "no worker consumes from its queue `{queue}`; those that replied consume from others: {}",
                others.join(", ")
            ),
            Self::NoWorkerForTask { task, queue, workers } => {
                write!(f, "no worker of its queue `{queue}` has the task `{task}`: {}", workers.join(", "))
            }
            Self::LockHeld { holder } => {
                write!(f, "its task is unique, and the call {holder} holds the lock")
            }
            Self::NoFreeSlot { queue, workers, slots } => {
                let workers = if *workers == 1 { "1 worker".into() } else { format!("{workers} workers") };
                write!(f, "all {slots} slots of the {workers} of its queue `{queue}` are taken")
            }
            Self::BehindOthers { queue, ahead } => {
                let messages =
                    if *ahead == 1 { "1 message is".into() } else { format!("{ahead} messages are") };
                write!(f, "{messages} before it in its queue `{queue}`")
            }
            Self::Reserved { worker } => write!(f, "{worker} has received it and begins when a slot is free"),
            Self::Quarantined => {
                f.write_str("it was suspected of crashing its workers, and was run once more in quarantine")
            }
            Self::Next { queue } => write!(f, "it waits in its queue `{queue}`, and nothing is in its way"),
            Self::Unknown => f.write_str("unknown id"),
        }
    }
}

impl Reason {
    /// What can be done about it, as a command where there is one.
    pub(crate) fn remedy(&self, id: &str) -> Option<String> {
        Some(match self {
            Self::DeadLettered { queue, .. } => {
                let queue = queue.strip_suffix(".dead").unwrap_or(queue);
                format!("mq-worker dead replay {queue} --id {id}")
            }
            Self::Failed { .. } | Self::Revoked { .. } | Self::Rejected { .. } => {
                format!("mq-worker jobs retry {id}")
            }
            Self::QueuePaused { queue, .. } => format!("mq-worker resume {queue}"),
            Self::TaskPaused { task, .. } => format!("mq-worker resume --task {task}"),
            Self::NoWorkerForQueue { queue, .. } => format!("mq-worker --queues {queue}"),
            Self::NoWorkerForTask { .. } => {
                "start a worker that has the task, or move the call: mq-worker jobs move ID --queue QUEUE".into()
            }
            Self::NoQueue { queue } => format!("mq-worker declare queue {queue}"),
            Self::Unknown => {
                "it was never sent, or all trace of it has expired; calls are remembered while `mq-worker dashboard` \
                 runs and workers emit events (--events)"
                    .into()
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
