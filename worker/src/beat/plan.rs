//! What is due next: the schedules in the order of their next calls.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::app::schedules::State;
use crate::schedule::{Schedule, backlog};
use crate::tracing;

/// How long to wait before a call is sent again to a queue that has refused it.
const RETRY_AFTER: TimeDelta = TimeDelta::seconds(1);

/// A call to send.
#[derive(Clone, Debug)]
pub(super) struct DueCall {
    pub(super) schedule: Arc<Schedule>,
    pub(super) due: DateTime<Utc>,
}

/// The schedules that are in force.
#[derive(Default)]
pub(super) struct Plan {
    planned: HashMap<String, Planned>,
    /// When to look at which schedule. An entry is stale if its number is not that of the planned schedule.
    queue: BinaryHeap<Reverse<(DateTime<Utc>, String, u64)>>,
    count: u64,
}

struct Planned {
    schedule: Arc<Schedule>,
    /// Due times up to this one have been handled.
    until: DateTime<Utc>,
    number: u64,
}

impl Plan {
    /// Plans all schedules of a state.
    pub(super) fn of(state: &State, now: DateTime<Utc>) -> Self {
        let mut plan = Self::default();
        for (name, _) in state.kept() {
            plan.update(name, state, state.mark, now);
        }
        plan
    }

    /// Plans a schedule that is new or has changed. Up to `mark` all calls were sent before this scheduler led.
    pub(super) fn update(
        &mut self,
        name: &str,
        state: &State,
        mark: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) {
        self.planned.remove(name);
        let Some(record) = state.records.get(name) else { return };
        let Some((_, definition)) = record.in_force() else { return };
        let until = match record.paused_until(now) {
            Some(end) if end == DateTime::<Utc>::MAX_UTC => return,
            Some(end) => end,
            None => record.handled_until(definition, mark, now),
        };
        let schedule = Arc::new(definition.schedule.clone());
        // A time in the past if a call is due already: then it is taken at once.
        let mut look = backlog(&schedule, until, until).next;
        if record.refused().is_some() {
            look = look.max(Some(now + RETRY_AFTER));
        }
        self.insert(name.to_owned(), schedule, until, look);
    }

    fn insert(
        &mut self,
        name: String,
        schedule: Arc<Schedule>,
        until: DateTime<Utc>,
        look: Option<DateTime<Utc>>,
    ) {
        self.count += 1;
        let number = self.count;
        if let Some(look) = look {
            self.queue.push(Reverse((look, name.clone(), number)));
            self.planned.insert(name, Planned { schedule, until, number });
        }
    }

    /// When the next call is due.
    pub(super) fn next(&self) -> Option<DateTime<Utc>> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the calls that are due by now.
    pub(super) fn take_due(&mut self, now: DateTime<Utc>) -> Vec<DueCall> {
        let mut calls = Vec::new();
        while let Some(Reverse((at, ..))) = self.queue.peek()
            && *at <= now
        {
            let Some(Reverse((_, name, number))) = self.queue.pop() else { break };
            if self.planned.get(&name).is_none_or(|planned| planned.number != number) {
                continue;
            }
            let Some(Planned { schedule, until, .. }) = self.planned.remove(&name) else { continue };
            let found = backlog(&schedule, until, now);
            if found.skipped > 0 {
                tracing::warn!(
                    schedule = name,
                    skipped = found.skipped,
                    catch_up = schedule.catch_up.as_str(),
                    "due times were missed while no scheduler ran"
                );
            }
            calls.extend(found.send.iter().map(|due| DueCall { schedule: Arc::clone(&schedule), due: *due }));
            self.insert(name, schedule, found.until, found.next);
        }
        calls
    }
}
