//! The state of the schedules: a fold over the entries of the log, the same for every reader.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::entry::Entry;
use super::record::{Definition, Record};
use super::run::Run;

/// The maximum number of schedules on a broker.
pub(super) const MOST: usize = 100_000;

/// The schedules of a broker, and the leading scheduler.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) term: u64,
    pub(crate) leader: Option<String>,
    /// The fences that may be open: the leader's, and those of all schedulers that took the lead since the last mark.
    pub(crate) fences: Vec<String>,
    /// The time until which everything was sent.
    pub(crate) mark: Option<DateTime<Utc>>,
    /// How often the clock was set back.
    pub(crate) era: u32,
    /// Only entries after this position count.
    pub(crate) base: u64,
    /// The number of entries since `base`.
    pub(crate) length: usize,
    /// The number of entries from leaders: claims and marks.
    pub(crate) signs: u64,
}

impl State {
    /// Applies one entry.
    pub(crate) fn apply(&mut self, at: u64, entry: Entry) {
        self.length += 1;
        match entry {
            Entry::Put { schedule, origin, program, since } => {
                let record = self.records.entry(schedule.name.clone()).or_default();
                let definition = Definition { schedule: *schedule, program, since };
                record.of_mut(&origin).say(at, Some(definition));
            }
            Entry::Remove { name, origin } => self.record(name).of_mut(&origin).say(at, None),
            Entry::Pause { name, until } => {
                self.record(name).pause.say(at, Some(until.unwrap_or(DateTime::<Utc>::MAX_UTC)));
            }
            Entry::Resume { name, since } => {
                let record = self.record(name);
                record.pause.say(at, None);
                record.resumed.say(at, Some(since));
            }
            Entry::Lead { leader, term } => {
                if term > self.term {
                    self.fences.push(leader.clone());
                    (self.term, self.leader) = (term, Some(leader));
                    self.signs += 1;
                }
            }
            Entry::Mark { leader, term, at, base, era } => {
                // Ignore the mark of a former leader that does not know yet that it was replaced.
                if term < self.term {
                    return;
                }
                if base > self.base {
                    // As for a reader that starts here: only what is in force was written again.
                    self.records.retain(|_, record| record.in_force().is_some());
                    (self.base, self.length) = (base, self.records.len());
                }
                self.fences = vec![leader.clone()];
                (self.term, self.leader, self.mark, self.era) = (term, Some(leader), Some(at), era);
                self.signs += 1;
            }
            Entry::Leave { leader } => {
                if self.leader.as_ref() == Some(&leader) {
                    self.leader = None;
                }
            }
            Entry::Sent { name, due, on } => {
                let run = Run { due, on, era: self.era, by_hand: None };
                self.record(name).sent(run, at);
            }
            Entry::Ran { name, id, on } => {
                self.record(name).ran(Run { due: on, on: Some(on), era: 0, by_hand: Some(id) });
            }
            Entry::Waits { name, due } => {
                let record = self.record(name);
                record.mark_handled(due, at);
                record.waits.say(at, Some(due));
            }
            Entry::Skipped { name, due } => {
                let record = self.record(name);
                record.mark_handled(due, at);
                if record.waiting() == Some(due) {
                    record.waits.say(at, None);
                }
            }
            Entry::Refused { name, due } => self.record(name).refuse(due, at),
            Entry::Reset { at: now, era } => {
                if era > self.era {
                    (self.era, self.mark) = (era, Some(now));
                    self.records.values_mut().for_each(|record| record.reset(now, at));
                }
            }
            Entry::Keep { name, record } => self.record(name).merge(*record),
        }
    }

    fn record(&mut self, name: String) -> &mut Record {
        self.records.entry(name).or_default()
    }

    /// True if a schedule of this name exists or may be added, given a limit of `most`.
    pub(super) fn has_room_for(&self, name: &str, most: usize) -> bool {
        let is_there = self.records.get(name).is_some_and(|record| record.in_force().is_some());
        is_there || self.kept().count() < most
    }

    /// The records with a definition in force.
    pub(crate) fn kept(&self) -> impl Iterator<Item = (&String, &Record)> {
        self.records.iter().filter(|(_, record)| record.in_force().is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::app::schedules::Origin;
    use crate::schedule::{Schedule, Timing};

    #[test]
    fn a_schedule_for_one_time_stays_until_its_queue_takes_the_call() {
        let due = DateTime::UNIX_EPOCH + Duration::from_secs(60);
        let mut state = State::default();
        let schedule = Box::new(Schedule::new("a", "t", Timing::at(due)));
        let since = DateTime::UNIX_EPOCH;
        state.apply(1, Entry::Put { schedule, origin: Origin::Hand, program: "p".into(), since });
        for at in [2, 4] {
            state.apply(at, Entry::Sent { name: "a".into(), due, on: None });
            assert_eq!(state.kept().count(), 0);
            state.apply(at + 1, Entry::Refused { name: "a".into(), due });
            let (_, definition) = state.records["a"].in_force().expect("it is back");
            let until = state.records["a"].handled_until(definition, Some(due), due);
            assert!(until < due, "the call remains to be sent");
        }
        state.apply(6, Entry::Sent { name: "a".into(), due, on: None });
        state.apply(7, Entry::Mark { leader: "l".into(), term: 1, at: due, base: 6, era: 0 });
        assert!(state.records.is_empty(), "and takes no memory when it was sent");
    }

    #[test]
    fn a_broker_that_is_full_keeps_what_it_has_and_takes_no_more() {
        let timing = Timing::every(Duration::from_secs(60)).expect("an interval");
        let mut state = State::default();
        let put = |name: &str| {
            let (schedule, since) =
                (Box::new(Schedule::new(name, "t", timing.clone())), DateTime::UNIX_EPOCH);
            Entry::Put { schedule, origin: Origin::Hand, program: "p".into(), since }
        };
        state.apply(1, put("a"));
        assert!(state.has_room_for("b", 2));
        state.apply(2, put("b"));
        assert!(state.has_room_for("a", 2) && state.has_room_for("b", 2) && !state.has_room_for("c", 2));
        state.apply(3, Entry::Remove { name: "a".into(), origin: Origin::Hand });
        assert!(state.has_room_for("a", 2) && !state.has_room_for("a", 1));
    }
}
