//! Finds the fault that explains why a task ran again.
//!
//! A message is redelivered when its worker did not settle it: the worker died, or the broker lost the connection, between
//! the delivery and the arrival of the ack. That arrival is not in the log. It happens soon after the `end` of the run,
//! unless something kept the worker from storing the outcome: such time is not counted.

use std::time::Duration;

use super::history::{History, Run, Task, Trouble};
use crate::log::{Fault, How, Time};

/// How long before its start a run may have been delivered.
const BEFORE: Duration = Duration::from_secs(2);
/// How long a run may stay unsettled after its end on a busy machine: the outcome is stored and the ack written.
const SETTLE: Duration = Duration::from_secs(3);
/// How long a fault has effects after it has ended.
const AFTER: Duration = Duration::from_secs(2);

/// The effect of a fault on unsettled deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// They are redelivered even if their run has ended.
    Breaks,
    /// They are redelivered if their run was interrupted.
    Interrupts,
    /// They are settled later.
    Delays,
    /// None.
    Nothing,
}

fn effect(fault: Fault) -> Effect {
    match fault {
        Fault::KillWorker
        | Fault::Crash
        | Fault::Pause
        | Fault::KillBroker
        | Fault::CloseAll
        | Fault::Cut
        | Fault::Refuse
        | Fault::Stall
        | Fault::Member => Effect::Breaks,
        Fault::Roll => Effect::Interrupts,
        Fault::MemoryAlarm | Fault::DiskAlarm | Fault::Lock | Fault::KillStore => Effect::Delays,
        Fault::KillProducer | Fault::KillScheduler => Effect::Nothing,
    }
}

impl Trouble {
    fn hits(&self, worker: u32) -> bool {
        self.target.is_none_or(|target| target == worker)
    }

    /// Returns true if it may cause redeliveries.
    pub(crate) fn repeats(&self) -> bool {
        effect(self.fault) != Effect::Nothing
    }

    /// Returns true if it may delay the confirm of a publish.
    fn slows(&self) -> bool {
        matches!(effect(self.fault), Effect::Breaks | Effect::Delays)
    }

    /// Returns true if the broker may take it for the death of the process.
    pub(crate) fn breaks(&self) -> bool {
        effect(self.fault) == Effect::Breaks
    }
}

/// Returns how many runs of an attempt are not explained by any fault.
pub(crate) fn unexplained(history: &History, task: &Task, attempt: u32) -> usize {
    let mut runs: Vec<&Run> = task.runs.iter().filter(|run| run.attempt == attempt).collect();
    runs.sort_by_key(|run| run.start);
    let surplus = runs.len().saturating_sub(copies(task, attempt));
    let explained = (1..runs.len()).filter(|index| {
        let (earlier, again) = (&runs[..*index], runs[*index]);
        is_counted(history, task, earlier, again)
            || is_doubled_while_waiting(history, task, again)
            || is_handed_back_twice(history, task, again)
            || is_held_meanwhile(history, task, again)
            || is_retried_twice(history, task, again)
            || earlier.iter().any(|run| is_interrupted(history, run, again.start))
    });
    surplus.saturating_sub(explained.count())
}

/// Returns how many messages of this attempt may exist without any fault between broker and worker.
fn copies(task: &Task, attempt: u32) -> usize {
    match attempt.checked_sub(1) {
        None => 1 + task.again,
        // Each failed run sent one.
        Some(before) => {
            let failed = |run: &&Run| run.attempt == before && matches!(run.end, Some((_, How::Failed)));
            task.runs.iter().filter(failed).count().max(1)
        }
    }
}

/// A message with a crash count was delivered and lost before, and was republished with the new count: if the ack of the old
/// one is lost, there are two.
fn is_counted(history: &History, task: &Task, earlier: &[&Run], again: &Run) -> bool {
    let is_counted = again.crashes > 0 || earlier.iter().any(|run| run.crashes > 0);
    let mut slow = history.troubles.iter().filter(|trouble| trouble.slows());
    is_counted && slow.any(|trouble| lies_in(trouble, began(task), again.start))
}

/// A delayed message moves between queues inside the broker, at least once per delay. A worker that receives it slightly
/// early publishes it with a delay again, and repeats that if no confirm arrives in time.
fn is_doubled_while_waiting(history: &History, task: &Task, again: &Run) -> bool {
    let waits = again.attempt > 0 || task.intent.is_some_and(|intent| intent.due.is_some());
    let mut slow = history.troubles.iter().filter(|trouble| trouble.slows());
    waits && slow.any(|trouble| lies_in(trouble, began(task), again.start))
}

/// A worker publishes a retry again if the first one is not confirmed in time.
fn is_retried_twice(history: &History, task: &Task, again: &Run) -> bool {
    let failed = task.runs.iter().filter(|run| run.attempt + 1 == again.attempt);
    failed.filter_map(|run| Some((run, run.end?.0))).any(|(run, end)| {
        let mut slow = history.troubles.iter().filter(|trouble| trouble.slows() && trouble.hits(run.worker));
        slow.any(|trouble| lies_in(trouble, end, again.start))
    })
}

/// A stopping worker republishes messages that it has not started, and requeues the original if no confirm arrives in time.
/// Neither copy has run by then.
fn is_handed_back_twice(history: &History, task: &Task, again: &Run) -> bool {
    let in_time = |trouble: &&Trouble| lies_in(trouble, began(task), again.start);
    let mut rolls = history.troubles.iter().filter(|trouble| trouble.fault == Fault::Roll).filter(in_time);
    rolls.any(|roll| {
        let slows = |trouble: &&Trouble| trouble.slows() && trouble.hits(roll.target.unwrap_or_default());
        history.troubles.iter().filter(slows).any(|trouble| lies_in(trouble, roll.begin, roll.end))
    })
}

/// A paused worker goes on with the messages that it holds, although the broker has given them to others meanwhile: the run
/// that started last is of the first delivery.
fn is_held_meanwhile(history: &History, task: &Task, again: &Run) -> bool {
    let of_it = |trouble: &&Trouble| trouble.target == Some(again.worker) && trouble.fault == Fault::Pause;
    history.troubles.iter().filter(of_it).any(|trouble| lies_in(trouble, began(task), again.start))
}

fn began(task: &Task) -> Time {
    task.intent.map_or(Time::ZERO, |intent| intent.at)
}

/// Returns true if a fault hit between the delivery of a run and its ack.
fn is_interrupted(history: &History, run: &Run, until: Time) -> bool {
    let from = run.start.saturating_sub(BEFORE);
    let settled = settled(history, run).min(until);
    history.troubles.iter().filter(|trouble| trouble.hits(run.worker)).any(|trouble| {
        let comes_again = match effect(trouble.fault) {
            Effect::Breaks => true,
            Effect::Interrupts => run.end.is_none(),
            Effect::Delays | Effect::Nothing => false,
        };
        comes_again && lies_in(trouble, from, settled)
    })
}

fn lies_in(trouble: &Trouble, from: Time, until: Time) -> bool {
    trouble.begin <= until && trouble.end + AFTER >= from
}

/// Returns the latest time at which the broker may not yet have the ack of a run.
fn settled(history: &History, run: &Run) -> Time {
    let Some((end, _)) = run.end else { return Time::MAX };
    let mut settled = end + SETTLE;
    loop {
        let later = history
            .troubles
            .iter()
            .filter(|trouble| trouble.hits(run.worker) && effect(trouble.fault) != Effect::Nothing)
            .filter(|trouble| trouble.begin <= settled && trouble.end >= end)
            .map(|trouble| trouble.end + SETTLE)
            .max();
        match later {
            Some(later) if later > settled => settled = later,
            _ => return settled,
        }
    }
}
