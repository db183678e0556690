//! Counts what the scheduler of this process has done, for the metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The limit for counting schedules by name; the others are counted under one name.
const NAMES: usize = 200;
/// The name under which the others are counted.
const OTHER: &str = "other";
/// The maximum number of delays kept until they are read.
const LATE: usize = 10_000;

/// The outcome of a due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DueOutcome {
    /// The call was sent, with this delay.
    Sent(Duration),
    /// It waits for the previous call to end.
    Waits,
    /// It was skipped: no call is sent.
    Skipped,
}

/// The counters of a scheduler, read by the metrics of the worker it runs in.
#[derive(Debug, Default)]
pub(crate) struct ScheduleFigures(Mutex<Figures>);

/// A snapshot of the counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// True if this process is the leading scheduler.
    pub(crate) leads: bool,
    /// The number of due times, by schedule and outcome.
    pub(crate) calls: BTreeMap<(String, &'static str), u64>,
    /// The delays of the calls sent since the last read.
    pub(crate) late: Vec<Duration>,
}

impl ScheduleFigures {
    pub(crate) fn lead(&self, leads: bool) {
        self.lock().leads = leads;
    }

    pub(crate) fn count(&self, schedule: &str, dealt: DueOutcome) {
        let mut figures = self.lock();
        let what = match dealt {
            DueOutcome::Sent(late) => {
                if figures.late.len() < LATE {
                    figures.late.push(late);
                }
                "sent"
            }
            DueOutcome::Waits => "waits",
            DueOutcome::Skipped => "skipped",
        };
        // A known name always fits: it has three outcomes at most.
        let known = figures.calls.keys().any(|(name, _)| name == schedule);
        let name = if known || figures.calls.len() < NAMES { schedule } else { OTHER };
        *figures.calls.entry((name.to_owned(), what)).or_default() += 1;
    }

    /// Takes a snapshot; each delay is returned once.
    pub(crate) fn read(&self) -> Figures {
        let mut figures = self.lock();
        let late = std::mem::take(&mut figures.late);
        Figures { late, ..figures.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_counted_by_name_up_to_a_bound() {
        let figures = ScheduleFigures::default();
        for number in 0..NAMES + 5 {
            figures.count(&format!("s{number}"), DueOutcome::Sent(Duration::from_millis(7)));
        }
        figures.count("s0", DueOutcome::Skipped);
        figures.lead(true);
        let read = figures.read();
        assert_eq!(read.calls.get(&("s0".into(), "sent")), Some(&1));
        assert_eq!(read.calls.get(&("s0".into(), "skipped")), Some(&1));
        assert_eq!(read.calls.get(&(OTHER.into(), "sent")), Some(&5));
        assert_eq!((read.late.len(), read.leads), (NAMES + 5, true));
        assert!(figures.read().late.is_empty(), "read once");
    }
}
