//! The log, sorted by what it is about.

use std::collections::{BTreeMap, HashMap};

use crate::log::{Answer, Death, Event, Fault, How, Kind, Line, Time};

/// All that happened in a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) tasks: BTreeMap<String, Task>,
    /// How many more there were of which everything is well: see [`super::reading`].
    pub(crate) plain: usize,
    pub(crate) troubles: Vec<Trouble>,
    /// Processes that ended by themselves, of nothing that a task had announced.
    pub(crate) exits: Vec<String>,
    /// How many processes ended by the task that said it would take them down.
    pub(crate) falls: usize,
    /// What tasks announced, and of which process.
    deaths: Vec<(u32, Death)>,
    /// What queues held at the end.
    pub(crate) left: Vec<(String, u64)>,
    /// When the log ends.
    pub(crate) end: Time,
}

/// One task: what was wanted, and what became of it.
#[derive(Debug, Default)]
pub(crate) struct Task {
    /// `None` when nobody intended it.
    pub(crate) intent: Option<Intent>,
    pub(crate) answers: Vec<Answer>,
    /// How often it was sent again, for nobody knew.
    pub(crate) again: usize,
    pub(crate) runs: Vec<Run>,
    /// The reasons of its dead letters.
    pub(crate) dead: Vec<String>,
    /// What the result store says.
    pub(crate) stored: Option<String>,
    /// True when the caller got another result than the right one.
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
    /// How many crashes its message told of.
    pub(crate) crashes: u32,
    /// The process id of the worker.
    pub(crate) worker: u32,
    pub(crate) start: Time,
    pub(crate) end: Option<(Time, How)>,
}

/// A fault, from its beginning to its end.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    /// The process that it hits, if it is one alone.
    pub(crate) target: Option<u32>,
    pub(crate) begin: Time,
    pub(crate) end: Time,
}

impl History {
    /// Reads a log.
    pub(crate) fn new(lines: impl IntoIterator<Item = Line>) -> History {
        let mut lines: Vec<Line> = lines.into_iter().collect();
        // Each process tells its own lines in order; between processes the order of writing may differ by a little.
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
            Event::Told { id, answer } => self.task(id).answers.push(answer),
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
    /// True when a producer was told that the broker has it.
    pub(crate) fn is_promised(&self) -> bool {
        self.answers.contains(&Answer::Ok)
    }

    /// True when all that a producer was told is that the broker does not have it.
    pub(crate) fn is_refused(&self) -> bool {
        !self.answers.is_empty()
            && self.answers.iter().all(|answer| matches!(answer, Answer::Rejected | Answer::Unreachable))
    }

    /// True when a run of it succeeded.
    pub(crate) fn has_succeeded(&self) -> bool {
        self.runs.iter().any(|run| matches!(run.end, Some((_, How::Succeeded))))
    }

    /// True when it has ended, in success or as a dead letter.
    pub(crate) fn has_outcome(&self) -> bool {
        self.has_succeeded() || !self.dead.is_empty()
    }

    /// How often an attempt ran more than once.
    pub(crate) fn repeats(&self) -> usize {
        let mut attempts: Vec<u32> = self.runs.iter().map(|run| run.attempt).collect();
        attempts.sort_unstable();
        let all = attempts.len();
        attempts.dedup();
        all - attempts.len()
    }
}
