//! Computes which due times have passed, which of them are sent, and which is next.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Schedule;

/// A due time that is late by no more than this was not missed: it waited for a takeover, or for the broker.
const GRACE: Duration = Duration::from_secs(30);

/// The maximum number of due times within [`GRACE`] and one jitter before it.
const MOST: usize = 1100;

/// The due times that have passed, and the next one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Backlog {
    /// The due times to send, the oldest first.
    pub(crate) send: Vec<DateTime<Utc>>,
    /// How many were missed and are not sent, not counting those before the last thousand.
    pub(crate) skipped: usize,
    /// The last due time that was considered: those up to it are handled.
    pub(crate) until: DateTime<Utc>,
    /// When the next call is to be sent; `None`: never.
    pub(crate) next: Option<DateTime<Utc>>,
}

/// When the call of a due time is sent: later by the jitter, which is the same for every scheduler.
pub(crate) fn run_at(schedule: &Schedule, due: DateTime<Utc>) -> DateTime<Utc> {
    let most = u64::try_from(schedule.jitter.as_millis()).unwrap_or(u64::MAX);
    if most == 0 {
        return due;
    }
    let text = format!("jitter\0{}\0{}", schedule.name, due.timestamp_millis());
    let (random, _) = Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).as_u64_pair();
    due + TimeDelta::milliseconds(i64::try_from(random % (most + 1)).unwrap_or(0))
}

/// Applies the schedule's catch-up policy to the due times after `after` that have passed at `now`.
pub(crate) fn backlog(schedule: &Schedule, after: DateTime<Utc>, now: DateTime<Utc>) -> Backlog {
    let come = come(schedule, after, now);
    let until = come.last().copied().unwrap_or(after);
    let missed_before = now - TimeDelta::from_std(GRACE).unwrap_or_default();
    let missed = come.partition_point(|due| run_at(schedule, *due) < missed_before);
    // With `CatchUp::Last`, a due time that is just late is the last one: none of the missed ones is sent.
    let late = come.len() - missed;
    let kept = match schedule.catch_up.at_most() {
        1 if late > 0 => 0,
        most => most.min(missed),
    };
    Backlog {
        send: come[missed - kept..].to_vec(),
        skipped: missed - kept,
        until,
        next: schedule.timing.next_after(until).map(|due| run_at(schedule, due)),
    }
}

/// The due time up to which a schedule is handled, given that all calls to be sent until `mark` were sent.
pub(crate) fn handled_until(schedule: &Schedule, after: DateTime<Utc>, mark: DateTime<Utc>) -> DateTime<Utc> {
    come(schedule, after, mark).last().copied().unwrap_or(after)
}

/// The last due times whose calls are to be sent by `now`, in order: none overtakes an earlier one.
fn come(schedule: &Schedule, after: DateTime<Utc>, now: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let mut due: Vec<DateTime<Utc>> = latest(schedule, after, now).into();
    let waits = due.iter().position(|due| run_at(schedule, *due) > now);
    due.truncate(waits.unwrap_or(due.len()));
    due
}

/// The last due times in a span. The span may be years long and the schedule due every second, so it is searched backwards
/// in growing steps.
fn latest(schedule: &Schedule, after: DateTime<Utc>, until: DateTime<Utc>) -> VecDeque<DateTime<Utc>> {
    let jitter = TimeDelta::from_std(schedule.jitter).unwrap_or_default();
    let mut span = TimeDelta::minutes(10) + jitter;
    loop {
        let from = after.max(until - span);
        let mut found = VecDeque::new();
        let mut last = from;
        while let Some(due) = schedule.timing.next_after(last).filter(|due| *due <= until) {
            found.push_back(due);
            // With a long jitter, many of them may not be sent yet: then the oldest are needed.
            if found.len() > MOST && jitter.is_zero() {
                found.pop_front();
            }
            last = due;
        }
        if from == after || found.len() >= MOST {
            return found;
        }
        span = span * 4;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::schedule::{CatchUp, Timing};

    fn time(text: &str) -> DateTime<Utc> {
        DateTime::parse_from_rfc3339(text).expect("a time").with_timezone(&Utc)
    }

    fn every(seconds: u64, catch_up: CatchUp) -> Schedule {
        let timing = Timing::every(Duration::from_secs(seconds)).expect("an interval");
        Schedule::new("s", "t", timing).catch_up(catch_up)
    }

    fn cron(text: &str, catch_up: CatchUp) -> Schedule {
        Schedule::new("s", "t", Timing::cron(text).expect("an expression")).catch_up(catch_up)
    }

    #[test]
    fn what_is_just_late_is_sent_whatever_the_policy() {
        for catch_up in [CatchUp::None, CatchUp::Last, CatchUp::All] {
            let found =
                backlog(&every(2, catch_up), time("2026-01-01T10:00:00Z"), time("2026-01-01T10:00:05Z"));
            assert_eq!(found.send, [time("2026-01-01T10:00:02Z"), time("2026-01-01T10:00:04Z")]);
            assert_eq!((found.skipped, found.next), (0, Some(time("2026-01-01T10:00:06Z"))));
        }
    }

    #[test]
    fn what_was_missed_follows_the_policy() {
        let (after, now) = (time("2026-01-01T10:00:00Z"), time("2026-01-01T10:50:31Z"));
        let minutes = |list: &[u32]| -> Vec<DateTime<Utc>> {
            list.iter().map(|minute| time(&format!("2026-01-01T10:{minute:02}:00Z"))).collect()
        };
        for (catch_up, expected, skipped) in [
            (CatchUp::None, minutes(&[]), 5),
            (CatchUp::Last, minutes(&[50]), 4),
            (CatchUp::All, minutes(&[10, 20, 30, 40, 50]), 0),
        ] {
            let found = backlog(&every(600, catch_up), after, now);
            assert_eq!((found.send, found.skipped), (expected, skipped), "{catch_up:?}");
            assert_eq!(found.next, Some(time("2026-01-01T11:00:00Z")));
        }
        // The last one of all is sent because it is just late, so the last of the missed ones is not.
        let found = backlog(&every(600, CatchUp::Last), after, time("2026-01-01T10:50:05Z"));
        assert_eq!(found.send, minutes(&[50]));
    }

    #[test]
    fn a_long_outage_is_caught_up_quickly_and_bounded() {
        let began = Instant::now();
        let (after, now) = (time("2016-01-01T00:00:00Z"), time("2026-01-01T00:00:00Z"));
        for schedule in [every(1, CatchUp::All), cron("* * * * * *", CatchUp::All)] {
            let found = backlog(&schedule, after, now);
            assert!(found.send.len() <= 1100, "{}", found.send.len());
            assert_eq!(found.send.last(), Some(&now));
        }
        let found = backlog(&cron("0 0 29 2 *", CatchUp::All), after, now);
        assert_eq!(found.send.len(), 3);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_due_again() {
        let schedule = every(60, CatchUp::All);
        let found = backlog(&schedule, time("2026-01-01T10:00:00Z"), time("2026-01-01T07:00:00Z"));
        assert_eq!((found.send.len(), found.until), (0, time("2026-01-01T10:00:00Z")));
    }

    #[test]
    fn jitter_stays_in_its_bound_and_is_the_same_for_all() {
        let schedule = every(60, CatchUp::All).jitter(Duration::from_secs(30));
        let mut due = time("2026-01-01T10:00:00Z");
        let mut delays = Vec::new();
        for _ in 0..1000 {
            due = schedule.timing.next_after(due).expect("another");
            let delay = run_at(&schedule, due) - due;
            assert!(delay >= TimeDelta::zero() && delay <= TimeDelta::seconds(30), "{delay}");
            assert_eq!(run_at(&schedule.clone().arg(1), due), due + delay);
            delays.push(delay);
        }
        let mean = delays.iter().sum::<TimeDelta>() / 1000;
        assert!(mean > TimeDelta::seconds(13) && mean < TimeDelta::seconds(17), "{mean}");
        assert_eq!(run_at(&every(60, CatchUp::All), due), due, "without one, nothing is late");
    }

    /// Whenever a scheduler looks, or another takes over, each due time is found exactly once.
    #[test]
    fn looking_often_or_seldom_finds_the_same() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let schedule =
                every(random.u64(1..20), CatchUp::All).jitter(Duration::from_millis(random.u64(0..1000)));
            let start = time("2026-01-01T10:00:00Z");
            let end = start + TimeDelta::minutes(15);
            let (mut now, mut after, mut sent) = (start, start, Vec::new());
            while now < end {
                now = (now + TimeDelta::milliseconds(random.i64(1..60_000))).min(end);
                if random.bool() {
                    // Another scheduler takes over: it knows only the mark of the previous one.
                    let mark = now - TimeDelta::milliseconds(random.i64(0..1));
                    after = handled_until(&schedule, start, after.max(start).min(mark)).max(after);
                }
                let found = backlog(&schedule, after, now);
                sent.extend(found.send);
                after = found.until;
            }
            let all: Vec<DateTime<Utc>> = come(&schedule, start, end);
            assert_eq!(sent, all, "seed {seed}");
        }
    }

    #[test]
    fn the_mark_of_another_scheduler_is_enough_to_go_on() {
        let schedule = every(10, CatchUp::All).jitter(Duration::from_secs(8));
        let start = time("2026-01-01T10:00:00Z");
        for seconds in 0..300 {
            let mark = start + TimeDelta::seconds(seconds);
            let until = handled_until(&schedule, start, mark);
            assert_eq!(until, backlog(&schedule, start, mark).until);
            let next = schedule.timing.next_after(until).expect("another");
            assert!(run_at(&schedule, next) > mark);
        }
    }
}
