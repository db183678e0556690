//! Which fault explains that a task ran again.
//!
//! A message comes again when its worker did not settle it: the worker died, or the broker lost sight of it, between
//! the hand-out and the moment when the broker had the ack. That moment is not in the log. It lies soon after the
//! `end` of the run, unless something kept the worker from storing the outcome: that time is not counted.

use std::time::Duration;

use super::history::{History, Run, Task, Trouble};
use crate::log::{Fault, How, Time};

/// How long before its start a run may have been handed out.
const BEFORE: Duration = Duration::from_secs(2);
/// How long after its end a run may be unsettled on a busy machine: the outcome is stored, and the ack written.
const SETTLE: Duration = Duration::from_secs(3);
/// How long after its end a fault is still felt.
const AFTER: Duration = Duration::from_secs(2);

/// What a fault does to messages that are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// They come again, even if their run has ended.
    Breaks,
    /// They come again if their run was interrupted.
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

    /// True when it may make messages come again.
    pub(crate) fn repeats(&self) -> bool {
        effect(self.fault) != Effect::Nothing
    }

    /// True when it may keep a worker from hearing that a message was published.
    fn slows(&self) -> bool {
        matches!(effect(self.fault), Effect::Breaks | Effect::Delays)
    }

    /// True when it looks like the end of the process to the broker.
    pub(crate) fn breaks(&self) -> bool {
        effect(self.fault) == Effect::Breaks
    }
}

/// How many runs of an attempt no fault explains.
pub(crate) fn unexplained(history: &History, task: &Task, attempt: u32) -> usize {
    let mut runs: Vec<&Run> = task.runs.iter().filter(|run| run.attempt == attempt).collect();
    runs.sort_by_key(|run| run.start);
    let surplus = runs.len().saturating_sub(copies(task, attempt));
    let explained = (1..runs.len()).filter(|index| {
        let (earlier, again) = (&runs[..*index], runs[*index]);
        is_counted(history, task, earlier, again)
            || is_doubled_while_waiting(history, task, again)
            || is_handed_back_twice(history, task, again)
            || is_retried_twice(history, task, again)
            || earlier.iter().any(|run| is_interrupted(history, run, again.start))
    });
    surplus.saturating_sub(explained.count())
}

/// How many messages of this attempt there may be without any fault between broker and worker.
fn copies(task: &Task, attempt: u32) -> usize {
    match attempt.checked_sub(1) {
        None => 1 + task.again,
        // Each run that failed sent one.
        Some(before) => {
            let failed = |run: &&Run| run.attempt == before && matches!(run.end, Some((_, How::Failed)));
            task.runs.iter().filter(failed).count().max(1)
        }
    }
}

/// A message that tells of crashes was handed out and lost before, and was sent afresh to say so: losing the ack of
/// that makes two of it.
fn is_counted(history: &History, task: &Task, earlier: &[&Run], again: &Run) -> bool {
    let is_counted = again.crashes > 0 || earlier.iter().any(|run| run.crashes > 0);
    let mut slow = history.troubles.iter().filter(|trouble| trouble.slows());
    is_counted && slow.any(|trouble| lies_in(trouble, began(task), again.start))
}

/// A message that waits moves from queue to queue inside the broker, at least once each time. A worker that gets it a
/// little early sends it back to wait, and does so again when it does not know in time whether that arrived.
fn is_doubled_while_waiting(history: &History, task: &Task, again: &Run) -> bool {
    let waits = again.attempt > 0 || task.intent.is_some_and(|intent| intent.due.is_some());
    let mut slow = history.troubles.iter().filter(|trouble| trouble.slows());
    waits && slow.any(|trouble| lies_in(trouble, began(task), again.start))
}

/// A worker publishes a retry again when it does not know in time whether the first one arrived.
fn is_retried_twice(history: &History, task: &Task, again: &Run) -> bool {
    let failed = task.runs.iter().filter(|run| run.attempt + 1 == again.attempt);
    failed.filter_map(|run| Some((run, run.end?.0))).any(|(run, end)| {
        let mut slow = history.troubles.iter().filter(|trouble| trouble.slows() && trouble.hits(run.worker));
        slow.any(|trouble| lies_in(trouble, end, again.start))
    })
}

/// A worker that stops publishes what it did not begin, and gives the first copy back if it cannot know in time
/// whether that arrived. Neither copy has run by then.
fn is_handed_back_twice(history: &History, task: &Task, again: &Run) -> bool {
    let in_time = |trouble: &&Trouble| lies_in(trouble, began(task), again.start);
    let mut rolls = history.troubles.iter().filter(|trouble| trouble.fault == Fault::Roll).filter(in_time);
    rolls.any(|roll| {
        let slows = |trouble: &&Trouble| trouble.slows() && trouble.hits(roll.target.unwrap_or_default());
        history.troubles.iter().filter(slows).any(|trouble| lies_in(trouble, roll.begin, roll.end))
    })
}

fn began(task: &Task) -> Time {
    task.intent.map_or(Time::ZERO, |intent| intent.at)
}

/// A fault came between the hand-out of a run and its ack.
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

/// The last moment at which the broker may not have had the ack of a run.
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
