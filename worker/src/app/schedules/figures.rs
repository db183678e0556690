//! What the scheduler of this process has done, for its metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most schedules that are counted by name; the others share one.
const NAMES: usize = 200;
/// The name of those others.
const OTHER: &str = "other";
/// The most that are kept until they are read.
const LATE: usize = 10_000;

/// What became of a due time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dealt {
    /// The call was sent, so late.
    Sent(Duration),
    /// It waits until the call before it ends.
    Waits,
    /// It is not sent.
    Skipped,
}

/// Counted by the scheduler, and read by the metrics of the worker that it is in.
#[derive(Debug, Default)]
pub(crate) struct ScheduleFigures(Mutex<Figures>);

/// The figures of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    /// This process leads the schedulers.
    pub(crate) leads: bool,
    /// How many due times, by schedule and by what became of them.
    pub(crate) calls: BTreeMap<(String, &'static str), u64>,
    /// How late calls were sent since the last reading.
    pub(crate) late: Vec<Duration>,
}

impl ScheduleFigures {
    pub(crate) fn lead(&self, leads: bool) {
        self.lock().leads = leads;
    }

    pub(crate) fn count(&self, schedule: &str, dealt: Dealt) {
        let mut figures = self.lock();
        let what = match dealt {
            Dealt::Sent(late) => {
                if figures.late.len() < LATE {
                    figures.late.push(late);
                }
                "sent"
            }
            Dealt::Waits => "waits",
            Dealt::Skipped => "skipped",
        };
        // Three outcomes for each name at most.
        let known = figures.calls.keys().any(|(name, _)| name == schedule);
        let name = if known || figures.calls.len() < NAMES { schedule } else { OTHER };
        *figures.calls.entry((name.to_owned(), what)).or_default() += 1;
    }

    /// The figures; what is late is read once.
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
            figures.count(&format!("s{number}"), Dealt::Sent(Duration::from_millis(7)));
        }
        figures.count("s0", Dealt::Skipped);
        figures.lead(true);
        let read = figures.read();
        assert_eq!(read.calls.get(&("s0".into(), "sent")), Some(&1));
        assert_eq!(read.calls.get(&("s0".into(), "skipped")), Some(&1));
        assert_eq!(read.calls.get(&(OTHER.into(), "sent")), Some(&5));
        assert_eq!((read.late.len(), read.leads), (NAMES + 5, true));
        assert!(figures.read().late.is_empty(), "read once");
    }
}
