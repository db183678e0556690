//! What people see of a schedule.

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;

use super::entry::Origin;
use super::record::Record;
use super::state::State;
use crate::schedule::{Schedule, run_at};

/// A schedule that the broker keeps.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScheduleInfo {
    /// What is called, and when.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// Who says so.
    pub origin: Origin,
    /// The program that wrote it down.
    pub program: String,
    /// Who else says something about this name, and is overruled.
    pub overrules: Vec<Origin>,
    /// True if nothing is sent.
    pub paused: bool,
    /// When the pause ends by itself.
    pub paused_until: Option<DateTime<Utc>>,
    /// When the next call is sent, jitter included.
    pub next: Option<DateTime<Utc>>,
    /// The last call that was sent.
    pub last: Option<ScheduledRun>,
    /// The due time whose call waits for the end of the one before.
    pub waiting: Option<DateTime<Utc>>,
}

/// A call that a schedule has sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduledRun {
    /// When it was due.
    pub due: DateTime<Utc>,
    /// The id of the call: its result and its history are found under it.
    pub id: String,
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
        let next = if never_ends { None } else { schedule.timing.next_after(from) };
        Some(Self {
            next: next.map(|due| run_at(&schedule, due)),
            last: record.sent.map(|due| ScheduledRun { due, id: schedule.call_id(due, state.era) }),
            origin,
            program: definition.program.clone(),
            overrules,
            paused: until.is_some(),
            paused_until: until.filter(|_| !never_ends).map(|until| until.trunc_subsecs(3)),
            waiting: record.waiting(),
            schedule,
        })
    }
}
