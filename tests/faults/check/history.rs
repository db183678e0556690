//! The log, grouped by task and fault.

use std::collections::{BTreeMap, HashMap};

use crate::log::{Answer, Death, Event, Fault, How, Kind, Line, Time};

/// Everything that happened in a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) tasks: BTreeMap<String, Task>,
    /// Number of further tasks without anything to check: see [`super::reading`].
    pub(crate) plain: usize,
    pub(crate) troubles: Vec<Trouble>,
    /// Processes that exited by themselves, for no reason that a task had announced.
    pub(crate) exits: Vec<String>,
    /// Number of processes killed by a task that had announced it.
    pub(crate) falls: usize,
    /// The deaths that tasks announced, with the process.
    deaths: Vec<(u32, Death)>,
    /// The queue lengths at the end.
    pub(crate) left: Vec<(String, u64)>,
    /// The time of the last log line.
    pub(crate) end: Time,
}

/// One task: what was intended and what happened.
#[derive(Debug, Default)]
pub(crate) struct Task {
    /// `None` if no producer intended it.
    pub(crate) intent: Option<Intent>,
    pub(crate) answers: Vec<Answer>,
    /// How often it was sent again because the outcome of the publish was unknown.
    pub(crate) again: usize,
    pub(crate) runs: Vec<Run>,
    /// The reasons of its dead letters.
    pub(crate) dead: Vec<String>,
    /// The state in the result store.
    pub(crate) stored: Option<String>,
    /// True if the caller got a wrong result.
    pub(crate) has_wrong_result: bool,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Intent {
    pub(crate) kind: Kind,
    pub(crate) at: Time,
    pub(crate) due: Option<Time>,
}

/// One run of a task.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) attempt: u32,
    /// The crash count of its message.
    pub(crate) crashes: u32,
    /// The process id of the worker.
    pub(crate) worker: u32,
    pub(crate) start: Time,
    pub(crate) end: Option<(Time, How)>,
}

/// A fault, from start to end.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    /// The only process that it affects, if there is just one.
    pub(crate) target: Option<u32>,
    pub(crate) begin: Time,
    pub(crate) end: Time,
}

impl History {
    /// Reads a log.
    pub(crate) fn new(lines: impl IntoIterator<Item = Line>) -> History {
        let mut lines: Vec<Line> = lines.into_iter().collect();
        // Each process writes its own lines in order; between processes the order may differ slightly.
        lines.sort_by_key(|line| line.at);
        let mut history = History::default();
        let mut open = HashMap::new();
        history.end = lines.last().map_or(Time::ZERO, |line| line.at);
        for line in lines {
            history.take(line, &mut open);
        }
        for index in open.into_values() {
            history.troubles[index].end = history.end;
        }
        history
    }

    fn take(&mut self, line: Line, open: &mut HashMap<u32, usize>) {
        let Line { at, who, event } = line;
        let pid = pid(&who);
        match event {
            Event::Intent { id, kind, due } => self.task(id).intent = Some(Intent { kind, at, due }),
            Event::Answered { id, answer } => self.task(id).answers.push(answer),
            Event::Again { id } => self.task(id).again += 1,
            Event::Got { id, is_right } => self.task(id).has_wrong_result |= !is_right,
            Event::Start { id, attempt, crashes } => {
                self.task(id).runs.push(Run { attempt, crashes, worker: pid, start: at, end: None });
            }
            Event::End { id, attempt, how } => {
                let runs = &mut self.task(id).runs;
                let run = runs
                    .iter_mut()
                    .find(|run| run.worker == pid && run.attempt == attempt && run.end.is_none());
                if let Some(run) = run {
                    run.end = Some((at, how));
                }
            }
            Event::Crash { death, .. } => {
                self.deaths.push((pid, death));
                let fault = Fault::Crash;
                self.troubles.push(Trouble { fault, target: Some(pid), begin: at, end: at });
            }
            Event::Dead { id, reason } => self.task(id).dead.push(reason),
            Event::Stored { id, state } => self.task(id).stored = Some(state),
            Event::FaultBegan { number, fault, target } => {
                open.insert(number, self.troubles.len());
                self.troubles.push(Trouble { fault, target, begin: at, end: at });
            }
            Event::FaultEnded { number } => {
                if let Some(index) = open.remove(&number) {
                    self.troubles[index].end = at;
                }
            }
            Event::Exit { name, code } => {
                let died = |(of, death): &(u32, Death)| *of == self::pid(&name) && death.explains(&code);
                if self.deaths.iter().any(died) {
                    self.falls += 1;
                } else {
                    self.exits.push(format!("{name} ended with {code}"));
                }
            }
            Event::Leads { .. } | Event::Came { .. } => {}
            Event::Left { queue, count } => self.left.push((queue, count)),
        }
    }

    fn task(&mut self, id: String) -> &mut Task {
        self.tasks.entry(id).or_default()
    }
}

fn pid(who: &str) -> u32 {
    who.split_once('/').and_then(|(_, pid)| pid.parse().ok()).unwrap_or_default()
}

impl Task {
    /// Returns true if the publish was confirmed to a producer.
    pub(crate) fn is_promised(&self) -> bool {
        self.answers.contains(&Answer::Ok)
    }

    /// Returns true if every publish failed for certain.
    pub(crate) fn is_refused(&self) -> bool {
        !self.answers.is_empty()
            && self.answers.iter().all(|answer| matches!(answer, Answer::Rejected | Answer::Unreachable))
    }

    /// Returns true if one of its runs succeeded.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.runs.iter().any(|run| matches!(run.end, Some((_, How::Succeeded))))
    }

    /// Returns true if it succeeded or was dead-lettered.
    pub(crate) fn has_outcome(&self) -> bool {
        self.has_succeeded() || !self.dead.is_empty()
    }

    /// Returns how many runs repeated an attempt.
    pub(crate) fn repeats(&self) -> usize {
        let mut attempts: Vec<u32> = self.runs.iter().map(|run| run.attempt).collect();
        attempts.sort_unstable();
        let all = attempts.len();
        attempts.dedup();
        all - attempts.len()
    }
}
