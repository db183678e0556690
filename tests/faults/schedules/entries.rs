//! The schedules of a run, for both the schedulers and the checker.

use std::fmt::Write;
use std::time::Duration;

use mq_worker::{CatchUp, Schedule, Timing};

use crate::arena::QUEUE;

/// Seconds between two due times: from a second to a minute.
const EVERY: [u64; 12] = [1, 1, 1, 2, 3, 4, 5, 6, 10, 15, 20, 60];
/// Some schedules are sent with jitter instead of at full seconds.
const JITTER: Duration = Duration::from_millis(900);

/// Returns this many schedules of all kinds.
pub(crate) fn schedules(count: usize) -> Vec<Schedule> {
    (0..count).map(schedule).collect()
}

fn schedule(number: usize) -> Schedule {
    let every = EVERY[number % EVERY.len()];
    let timing = match (number % 7, every) {
        (3, 60) | (_, 0) => Timing::cron("* * * * *"),
        (3, seconds) => Timing::cron(&format!("*/{seconds} * * * * *")),
        (_, seconds) => Timing::every(Duration::from_secs(seconds)),
    };
    let timing = timing.expect("a good timing");
    let catch_up = match number % 5 {
        0 => CatchUp::Last,
        1 => CatchUp::None,
        _ => CatchUp::All,
    };
    let jitter = if number.is_multiple_of(3) { JITTER } else { Duration::ZERO };
    Schedule::new(format!("s{number}"), "faults.scheduled", timing)
        .queue(QUEUE)
        .catch_up(catch_up)
        .jitter(jitter)
}

/// Writes them as an `mq-worker.toml`.
pub(crate) fn to_toml(schedules: &[Schedule]) -> String {
    let mut text = String::new();
    for schedule in schedules {
        let timing = match (schedule.timing.as_cron(), schedule.timing.as_every()) {
            (Some(cron), _) => format!("cron = \"{cron}\""),
            (None, every) => format!("every = \"{}s\"", every.unwrap_or_default().as_secs()),
        };
        let jitter = match schedule.jitter.as_millis() {
            0 => String::new(),
            millis => format!("jitter = \"{millis}ms\"\n"),
        };
        let (name, task, catch_up) = (&schedule.name, &schedule.task, schedule.catch_up.as_str());
        writeln!(
            text,
            "[[schedules]]\nname = \"{name}\"\ntask = \"{task}\"\nqueue = \"{QUEUE}\"\n{timing}\ncatch_up = \"{catch_up}\"\n{jitter}"
        )
        .expect("a text takes all");
    }
    text
}
