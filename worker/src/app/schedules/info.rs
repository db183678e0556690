//! A schedule as the API, the command and the management page show it.

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;

use super::origin::Origin;
use super::record::Record;
use super::state::State;
use crate::schedule::{Schedule, run_at};

/// How many of the next calls are listed.
const UPCOMING: usize = 5;

/// A schedule that the broker keeps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleInfo {
    /// What is called, and when.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Where it is defined.
    pub origin: Origin,
    /// The program that declared it.
    pub program: String,
    /// Other origins that define a schedule of this name, and are overridden.
    pub overrules: Vec<Origin>,
    /// True if it is paused: nothing is sent.
    pub paused: bool,
    /// When the pause ends by itself.
    pub paused_until: Option<DateTime<Utc>>,
    /// When the next call is sent, jitter included.
    pub next: Option<DateTime<Utc>>,
    /// When the next calls are sent, five at most.
    pub upcoming: Vec<DateTime<Utc>>,
    /// The last calls, the newest first, five at most.
    pub runs: Vec<ScheduledRun>,
    /// The due time whose call waits for the previous call to end.
    pub waiting: Option<DateTime<Utc>>,
    /// Whether a running worker has the task; `None` if no worker was asked, or none answered.
    pub registered: Option<bool>,
}

/// A call that a schedule has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduledRun {
    /// When it was due; for a call sent by hand, when it was sent.
    pub due: DateTime<Utc>,
    /// When it was sent.
    pub sent_at: Option<DateTime<Utc>>,
    /// The id of the call: its result and its history are found under it.
    pub id: String,
    /// True if it was sent by hand.
    pub by_hand: bool,
    /// Its outcome, if a result backend or a history has it.
    pub outcome: Option<RunOutcome>,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunOutcome {
    /// Celery's state, such as `STARTED`, `SUCCESS` or `FAILURE`; from a history also `DEAD_LETTERED` and `DELAYED`.
    pub state: String,
    /// When it ended.
    pub at: Option<DateTime<Utc>>,
    /// Why it failed.
    pub error: Option<String>,
}

/// For the commands and the page.
#[cfg(feature = "cli")]
impl ScheduleInfo {
    /// Notes whether a running worker has the task.
    pub(crate) fn mark(&mut self, registered: Option<&crate::control::Registered>) {
        self.registered = registered.map(|registered| registered.has(&self.schedule.task));
    }

    /// True if running workers answered, and none of them has the task.
    pub(crate) fn has_no_worker(&self) -> bool {
        self.registered == Some(false)
    }
}

impl ScheduleInfo {
    pub(super) fn of(name: &str, record: &Record, state: &State, now: DateTime<Utc>) -> Option<Self> {
        debug_assert!(!name.is_empty());
        let (origin, definition) = record.in_force()?;
        let schedule = definition.schedule.clone();
        let overrules = [Origin::Code, Origin::File].into_iter();
        let overrules = overrules.filter(|other| *other < origin && record.of(other).is_some()).collect();
        let until = record.paused_until(now);
        let never_ends = until == Some(DateTime::<Utc>::MAX_UTC);
        let from = match until {
            Some(until) => until,
            None => record.handled_until(definition, state.mark, now),
        };
        let after = |last: &DateTime<Utc>| schedule.timing.next_after(*last);
        let due = std::iter::successors(if never_ends { None } else { after(&from) }, after);
        let upcoming: Vec<_> = due.take(UPCOMING).map(|due| run_at(&schedule, due)).collect();
        let runs = record.runs.iter().map(|run| ScheduledRun {
            due: run.due,
            sent_at: run.on,
            id: run.id(&schedule),
            by_hand: run.by_hand.is_some(),
            outcome: None,
        });
        Some(Self {
            next: upcoming.first().copied(),
            upcoming,
            runs: runs.collect(),
            origin,
            program: definition.program.clone(),
            overrules,
            paused: until.is_some(),
            paused_until: until.filter(|_| !never_ends).map(|until| until.trunc_subsecs(3)),
            waiting: record.waiting(),
            registered: None,
            schedule,
        })
    }
}
