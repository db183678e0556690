//! Compares the delivered calls with the due times: a pure function from the log of a run to the guarantees that were broken.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mq_worker::{CatchUp, Schedule};

use super::reader::time;
use crate::check::History;
use crate::log::{Event, Fault, Line, Time};

/// The time within which another scheduler takes over.
const TAKEOVER: Duration = Duration::from_secs(5);
/// How long it may take to reconnect after all connections were lost.
const RECONNECT: Duration = Duration::from_secs(5);
/// A due time that is later than this was missed, and the catch-up policy applies.
const MISSED: Duration = Duration::from_secs(30);
/// How early a call may seem, due to the precision of a clock.
const EARLY: Duration = Duration::from_millis(10);

/// The result of a check.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    faults: BTreeMap<Fault, usize>,
    schedules: usize,
    /// Due times, and how many of them were delivered.
    due: usize,
    came: usize,
    /// Not sent after a long outage, as their policy says.
    missed: usize,
    /// In flight when RabbitMQ was killed: see `docs/guide/schedules.md`.
    in_doubt: usize,
    /// Redelivered by the broker.
    again: usize,
    takeovers: usize,
    late: Vec<Duration>,
    /// The allowance for a busy machine beyond a takeover.
    busy: Duration,
    broken: Vec<String>,
}

impl Verdict {
    /// Returns all violations as text.
    pub(crate) fn violations(&self) -> &[String] {
        &self.broken
    }
}

/// What to check, and how strictly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Due times after this.
    pub(crate) from: Time,
    /// Due times up to this.
    pub(crate) until: Time,
    /// The allowance for anything that a busy machine does.
    pub(crate) busy: Duration,
}

/// Checks a run.
pub(crate) fn check(lines: Vec<Line>, schedules: &[Schedule], setting: Setting) -> Verdict {
    let Setting { from, until, busy } = setting;
    let leads = lines.iter().filter(|line| matches!(line.event, Event::Leads { .. })).count();
    let mut verdict = Verdict {
        schedules: schedules.len(),
        takeovers: leads.saturating_sub(1),
        busy,
        ..Verdict::default()
    };
    let mut arrivals = arrivals(&lines);
    let history = History::new(lines);
    for trouble in &history.troubles {
        *verdict.faults.entry(trouble.fault).or_default() += 1;
    }
    let troubles = Troubles::of(&history, busy);
    for schedule in schedules {
        let mut came = arrivals.remove(schedule.name.as_str()).unwrap_or_default();
        for due in due_times(schedule, from, until) {
            verdict.due += 1;
            let calls = came.remove(&due).unwrap_or_default();
            check_due(schedule, due, &calls, &troubles, &mut verdict);
        }
        let inside = came.keys().filter(|due| **due > from && **due <= until);
        let strange: Vec<String> = inside
            .map(|due| format!("unexpected: {} came for {}, when it is not due", schedule.name, shown(*due)))
            .collect();
        verdict.broken.extend(strange);
    }
    let unknown =
        arrivals.keys().map(|name| format!("unexpected: {name} came, and there is no such schedule"));
    verdict.broken.extend(unknown);
    verdict
        .broken
        .extend(history.exits.iter().map(|exit| format!("exit: {exit}, and nobody had asked for it")));
    verdict.late.sort_unstable();
    verdict
}

fn check_due(schedule: &Schedule, due: Time, calls: &[Arrival], troubles: &Troubles, verdict: &mut Verdict) {
    let name = &schedule.name;
    let at_the_latest = troubles.put_off(due + schedule.jitter);
    let is_in_doubt = troubles.hit_the_broker.iter().any(|at| (due..=at_the_latest).contains(at));
    verdict.in_doubt += usize::from(is_in_doubt);
    let first: Vec<&Arrival> = calls.iter().filter(|call| !call.is_again).collect();
    if first.len() > 1 && !is_in_doubt {
        verdict.broken.push(format!("twice: {name} due {} came {} times", shown(due), first.len()));
    }
    let earliest = calls.iter().map(|call| call.at).min();
    for call in calls.iter().filter(|call| call.is_again) {
        verdict.again += 1;
        let since = earliest.unwrap_or(due).saturating_sub(troubles.busy);
        if !troubles.broke_deliveries.iter().any(|at| (since..=call.at).contains(at)) {
            verdict
                .broken
                .push(format!("repeated: {name} due {} was delivered again without a fault", shown(due)));
        }
    }
    let Some(at) = earliest else {
        let may_be_missed =
            schedule.catch_up != CatchUp::All && at_the_latest - due + troubles.busy >= MISSED;
        if may_be_missed {
            verdict.missed += 1;
        } else if !is_in_doubt {
            verdict.broken.push(format!("lost: {name} due {} never came", shown(due)));
        }
        return;
    };
    verdict.came += 1;
    verdict.late.push(at.saturating_sub(due + schedule.jitter));
    if at + EARLY < due {
        verdict.broken.push(format!("early: {name} due {} came {:?} before its time", shown(due), due - at));
    }
    if at > at_the_latest {
        let (late, allowed) = (at - due, at_the_latest - due);
        verdict.broken.push(format!(
            "late: {name} due {} came {:.1}s late, faults explain {:.1}s",
            shown(due),
            late.as_secs_f64(),
            allowed.as_secs_f64()
        ));
    }
}

/// A delivered call.
#[derive(Debug)]
struct Arrival {
    at: Time,
    is_again: bool,
}

/// Returns the delivered calls by schedule and due time.
fn arrivals(lines: &[Line]) -> BTreeMap<String, BTreeMap<Time, Vec<Arrival>>> {
    let mut found = BTreeMap::<_, BTreeMap<_, Vec<_>>>::new();
    for Line { at, event, .. } in lines {
        if let Event::Came { schedule, due, is_again } = event {
            let of = found.entry(schedule.clone()).or_default();
            of.entry(*due).or_default().push(Arrival { at: *at, is_again: *is_again });
        }
    }
    found
}

fn due_times(schedule: &Schedule, from: Time, until: Time) -> BTreeSet<Time> {
    let moment = |time: Time| DateTime::<Utc>::UNIX_EPOCH + time;
    let next = |last: &DateTime<Utc>| schedule.timing.next_after(*last);
    let times = std::iter::successors(next(&moment(from)), next);
    times.map(time).take_while(|due| *due <= until).collect()
}

/// The delays and repetitions that the faults excuse.
struct Troubles {
    busy: Duration,
    /// Time spans in which calls may be delayed, without overlaps.
    spans: Vec<(Time, Time)>,
    /// When the broker was killed.
    hit_the_broker: Vec<Time>,
    /// When deliveries may have been interrupted.
    broke_deliveries: Vec<Time>,
}

impl Troubles {
    fn of(history: &History, busy: Duration) -> Troubles {
        let mut spans: Vec<(Time, Time)> = Vec::new();
        let begins = |faults: &[Fault]| {
            let hit = history.troubles.iter().filter(|trouble| faults.contains(&trouble.fault));
            hit.map(|trouble| trouble.begin).collect()
        };
        for trouble in &history.troubles {
            // The effect on a single scheduler ends when another one leads.
            let end = if trouble.target.is_some() { trouble.begin } else { trouble.end + RECONNECT };
            spans.push((trouble.begin, end + TAKEOVER));
        }
        spans.sort_unstable();
        spans.dedup_by(|next, last| {
            let overlaps = next.0 <= last.1;
            if overlaps {
                last.1 = last.1.max(next.1);
            }
            overlaps
        });
        Troubles {
            busy,
            spans,
            hit_the_broker: begins(&[Fault::KillBroker, Fault::Member]),
            broke_deliveries: begins(&[Fault::KillBroker, Fault::Member, Fault::CloseAll]),
        }
    }

    /// Returns the time until which a call due at `moment` may be delayed.
    fn put_off(&self, moment: Time) -> Time {
        let mut end = moment + self.busy;
        for (begin, over) in &self.spans {
            if *begin <= end && *over > moment {
                end = end.max(*over + self.busy);
            }
        }
        end
    }
}

fn shown(time: Time) -> String {
    (DateTime::<Utc>::UNIX_EPOCH + time).format("%T").to_string()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults: Vec<String> =
            self.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
        let sorts = |sort: &str| self.broken.iter().filter(|text| text.starts_with(sort)).count();
        let late = |percent: usize| {
            let at = (self.late.len() * percent / 100).min(self.late.len().saturating_sub(1));
            self.late.get(at).map_or(0.0, Duration::as_secs_f64)
        };
        let (twice, lost) = (sorts("twice:"), sorts("lost:"));
        write!(
            f,
            "faults: {} | {} schedules, due times {}, came {} | twice {twice} | lost {lost} | missed by policy {} | in doubt {} | \
             delivered again {} | {} takeovers | late by {:.2}s (p50), {:.1}s (p99), {:.1}s at most, {:.1}s allowed for the machine | other violations {}",
            if faults.is_empty() { "none".into() } else { faults.join(", ") },
            self.schedules,
            self.due,
            self.came,
            self.missed,
            self.in_doubt,
            self.again,
            self.takeovers,
            late(50),
            late(99),
            late(100),
            self.busy.as_secs_f64(),
            self.broken.len() - twice - lost,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use mq_worker::Timing;

    fn check_log(catch_up: CatchUp, until: u64, log: &str) -> Verdict {
        let timing = Timing::every(Duration::from_secs(10)).expect("an interval");
        let schedule = Schedule::new("a", "t", timing).catch_up(catch_up);
        let lines = log.lines().map(|line| line.trim().parse().expect("a good line")).collect();
        let (from, until, busy) =
            (Duration::from_secs(95), Duration::from_secs(until), Duration::from_secs(3));
        check(lines, &[schedule], Setting { from, until, busy })
    }

    fn clean(until: u64, log: &str) -> Verdict {
        let verdict = check_log(CatchUp::All, until, log);
        assert_eq!(verdict.violations(), [""; 0], "{log}");
        verdict
    }

    fn caught(by: &str, until: u64, log: &str) {
        let verdict = check_log(CatchUp::All, until, log);
        assert!(verdict.violations().iter().any(|text| text.starts_with(by)), "{by}: {verdict:?}");
    }

    const FIRST: &str = "100.2 reader came a 100.0 first";

    #[test]
    fn each_due_time_comes_once() {
        let verdict = clean(115, &format!("{FIRST}\n110.1 reader came a 110.0 first"));
        assert_eq!((verdict.due, verdict.came), (2, 2));
        caught("lost: a due 00:01:50", 115, FIRST);
        caught("twice: a due 00:01:40", 105, &format!("{FIRST}\n104.0 reader came a 100.0 first"));
        caught("unexpected", 108, &format!("{FIRST}\n107.0 reader came a 107.0 first"));
        caught("unexpected", 105, &format!("{FIRST}\n101.0 reader came b 100.0 first"));
        caught("early", 105, "99.9 reader came a 100.0 first");
    }

    #[test]
    fn a_takeover_excuses_a_late_call_and_none_that_comes_twice() {
        let late = "106.0 reader came a 100.0 first";
        caught("late", 105, late);
        let killed = "99.0 control fault 1 kill-scheduler 7\n99.0 control over 1\n";
        clean(105, &format!("{killed}{late}"));
        caught("late", 105, &format!("{killed}108.0 reader came a 100.0 first"));
        caught("twice", 105, &format!("{killed}{late}\n106.1 reader came a 100.0 first"));
        // The length of the pause does not matter: another scheduler leads.
        let paused = "99.0 control fault 1 pause 7\n108.0 control over 1\n";
        clean(105, &format!("{paused}{late}"));
        caught("late", 105, &format!("{paused}109.0 reader came a 100.0 first"));
    }

    #[test]
    fn a_lock_for_all_excuses_its_own_time_too() {
        let locked = "99.0 control fault 1 lock\n106.0 control over 1\n";
        clean(105, &format!("{locked}112.0 reader came a 100.0 first"));
        caught("late", 105, &format!("{locked}120.0 reader came a 100.0 first"));
    }

    #[test]
    fn what_was_on_its_way_when_rabbitmq_was_killed_is_in_doubt() {
        let killed = "100.1 control fault 1 kill-broker\n104.0 control over 1\n";
        let verdict = clean(105, killed);
        assert_eq!((verdict.in_doubt, verdict.came), (1, 0));
        clean(105, &format!("{FIRST}\n{killed}108.0 reader came a 100.0 first"));
        // Later due times are not in doubt.
        caught("lost", 115, &format!("{FIRST}\n{killed}"));
    }

    #[test]
    fn a_long_outage_is_a_matter_of_policy() {
        let away = "109.0 control fault 1 lock\n150.0 control over 1\n";
        assert_eq!(check_log(CatchUp::Last, 115, &format!("{FIRST}\n{away}")).missed, 1);
        caught("lost", 115, &format!("{FIRST}\n{away}"));
    }

    #[test]
    fn a_delivery_that_comes_again_needs_a_fault() {
        let again = "106.0 reader came a 100.0 again";
        caught("repeated", 105, &format!("{FIRST}\n{again}"));
        clean(105, &format!("{FIRST}\n102.0 control fault 1 close-all\n102.1 control over 1\n{again}"));
    }
}
