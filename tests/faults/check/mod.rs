//! The checker: a pure function from the log of a run to the guarantees that were broken.

mod explain;
mod history;
mod reading;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub(crate) use self::history::History;
use self::history::Task;
pub(crate) use self::reading::read;
use crate::log::{Answer, Fault, Kind, Time};

/// Facts about the run that are not in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) workers: usize,
    /// How many messages a worker may hold.
    pub(crate) prefetch: usize,
    pub(crate) max_retries: u32,
    /// A message that took this many workers down is dead-lettered.
    pub(crate) max_crashes: u32,
    /// True if there are too few faults for an innocent task to be taken for a poison task.
    pub(crate) forbids_blame: bool,
    /// True if no fault in this run excuses a second run.
    pub(crate) forbids_repeats: bool,
    /// How many workers tasks may take down.
    pub(crate) allows_falls: usize,
}

/// How early a worker may start a task: its documented tolerance, and the precision of a clock.
const EARLY: Duration = Duration::from_millis(10);

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) faults: BTreeMap<Fault, usize>,
    pub(crate) answers: BTreeMap<Answer, usize>,
    pub(crate) tasks: usize,
    pub(crate) runs: usize,
    /// Tasks that were confirmed to the producer and have no outcome.
    pub(crate) lost: Vec<String>,
    /// Runs that repeated an attempt.
    pub(crate) duplicated: usize,
    /// The most repeated runs that the faults can explain.
    pub(crate) bound: usize,
    /// Dead letters with the expected reason.
    pub(crate) dead_lettered: usize,
    /// Tasks that were dead-lettered for crashes caused by others: accounted for, and counted.
    pub(crate) blamed: usize,
    /// The longest delay between due time and start.
    pub(crate) latest: Duration,
    /// All other violations, as text.
    pub(crate) broken: Vec<String>,
}

impl Verdict {
    /// Returns all violations as text.
    pub(crate) fn violations(&self) -> Vec<String> {
        let lost = self.lost.iter().map(|id| format!("lost: {id} was acknowledged and has no outcome"));
        lost.chain(self.broken.iter().cloned()).collect()
    }
}

/// Checks a run.
pub(crate) fn check(history: &History, setting: Setting) -> Verdict {
    let plain = history.plain;
    let mut verdict = Verdict { tasks: history.tasks.len() + plain, runs: plain, ..Verdict::default() };
    if plain > 0 {
        verdict.answers.insert(Answer::Ok, plain);
    }
    for trouble in &history.troubles {
        *verdict.faults.entry(trouble.fault).or_default() += 1;
        if trouble.repeats() {
            let hit = if trouble.target.is_some() { 1 } else { setting.workers };
            // A message whose crash is counted is republished, and may be redelivered and duplicated at that moment too.
            verdict.bound += hit * setting.prefetch * 2;
        }
    }
    for (id, task) in &history.tasks {
        check_task(id, task, history, setting, &mut verdict);
    }
    if setting.forbids_repeats && verdict.duplicated > 0 {
        verdict.broken.push(format!("repeated: {} runs again, and nothing excuses one", verdict.duplicated));
    }
    if history.falls > setting.allows_falls {
        let (falls, most) = (history.falls, setting.allows_falls);
        verdict.broken.push(format!("fell: tasks took {falls} workers down, {most} at most were to fall"));
    }
    if verdict.duplicated > verdict.bound {
        let (duplicated, bound) = (verdict.duplicated, verdict.bound);
        verdict.broken.push(format!("repeated: {duplicated} runs again, faults explain {bound} at most"));
    }
    for (queue, count) in history.left.iter().filter(|(_, count)| *count > 0) {
        verdict.broken.push(format!("stuck: {count} messages are left in `{queue}`"));
    }
    verdict
        .broken
        .extend(history.exits.iter().map(|exit| format!("exit: {exit}, and nobody had asked for it")));
    verdict
}

fn check_task(id: &str, task: &Task, history: &History, setting: Setting, verdict: &mut Verdict) {
    for answer in &task.answers {
        *verdict.answers.entry(*answer).or_default() += 1;
    }
    verdict.runs += task.runs.len();
    verdict.duplicated += task.repeats();
    verdict.bound += task.again;
    let mut broken = |what: &str| verdict.broken.push(format!("{what}: {id}"));
    let Some(intent) = task.intent else {
        return broken("unexpected: ran, and nobody had asked for it");
    };
    if task.is_refused() && (!task.runs.is_empty() || !task.dead.is_empty()) {
        broken("refused: ran, although its producer was told that it was not enqueued");
    }
    let kind = intent.kind;
    if kind == Kind::Nowhere && (task.is_promised() || !task.runs.is_empty()) {
        broken("unroutable: no queue takes it, and it was taken");
    }
    let mut attempts: Vec<u32> = task.runs.iter().map(|run| run.attempt).collect();
    attempts.sort_unstable();
    attempts.dedup();
    for attempt in &attempts {
        let count = explain::unexplained(history, task, *attempt);
        if count > 0 {
            broken(&format!("repeated: attempt {attempt} ran {count} times more than any fault explains"));
        }
    }
    if attempts.last().is_some_and(|last| *last > setting.max_retries) {
        broken(&format!("retries: tried more than {} times again", setting.max_retries));
    }
    if let (Some(due), Some(first)) = (intent.due, task.runs.iter().map(|run| run.start).min()) {
        if first + EARLY < due {
            broken(&format!("early: ran {:?} before its time", due - first));
        }
        verdict.latest = verdict.latest.max(first.saturating_sub(due));
    }
    let mut broken = |what: &str| verdict.broken.push(format!("{what}: {id}"));
    if task.has_wrong_result {
        broken("result: its caller got a wrong one");
    }
    if let Some(state) = &task.stored {
        let (succeeded, died) = (task.has_succeeded(), !task.dead.is_empty());
        // If it did both, because a fault made it run again, the first state is kept.
        if !(succeeded && state == "SUCCESS" || died && state == "FAILURE") {
            let ended = if succeeded { "succeeded" } else { "was dead-lettered" };
            broken(&format!("result: it {ended}, the store says {state}"));
        }
    }
    if task.is_promised() && !task.has_outcome() {
        verdict.lost.push(id.to_owned());
    }
    check_outcome(id, task, kind, history, setting, verdict);
}

/// Checks that the task has the outcome of its kind.
fn check_outcome(
    id: &str,
    task: &Task,
    kind: Kind,
    history: &History,
    setting: Setting,
    verdict: &mut Verdict,
) {
    let mut broken = |what: String| verdict.broken.push(format!("{what}: {id}"));
    let wanted = match kind {
        Kind::Reject => Some("rejected"),
        Kind::Poison => Some("crashed"),
        _ => None,
    };
    if wanted.is_some() && task.has_succeeded() {
        broken(format!("outcome: a task of kind {kind} cannot succeed, and did"));
    }
    for reason in &task.dead {
        if Some(reason.as_str()) == wanted {
            verdict.dead_lettered += 1;
        } else if reason == "crashed" && task.has_succeeded() && !setting.forbids_blame {
            // Only a duplicate: the task has succeeded.
        } else if reason == "crashed" {
            verdict.blamed += 1;
            // Even in the worst case it takes this many faults to take it for a poison task.
            let from = task.intent.map_or(Time::ZERO, |intent| intent.at);
            let hits = history.troubles.iter().filter(|trouble| trouble.breaks() && trouble.end >= from);
            if setting.forbids_blame || hits.count() < setting.max_crashes as usize {
                broken("blamed: dead-lettered for crashes that did not happen".into());
            }
        } else {
            broken(format!("outcome: a task of kind {kind} was dead-lettered as {reason}"));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |counts: Vec<String>| if counts.is_empty() { "none".into() } else { counts.join(", ") };
        let faults = counted(self.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect());
        let answers =
            counted(self.answers.iter().map(|(answer, count)| format!("{answer} {count}")).collect());
        write!(
            f,
            "faults: {faults} | tasks {} ({answers}), runs {} | lost {} | duplicated {} (faults explain {}) | \
             dead-lettered {}, blamed {} | at most {:.1}s late | other violations {}",
            self.tasks,
            self.runs,
            self.lost.len(),
            self.duplicated,
            self.bound,
            self.dead_lettered,
            self.blamed,
            self.latest.as_secs_f64(),
            self.broken.len(),
        )
    }
}
