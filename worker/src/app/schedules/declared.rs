//! The schedules that this program declares: those of its tasks, and those in `mq-worker.toml`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::entry::Entry;
use super::origin::Origin;
use super::reader::Reader;
use super::state::{MOST, State};
use crate::app::App;
use crate::error::{Error, Result};
use crate::schedule::{Overlap, Schedule, Timing};
use crate::task::TaskEntry;
use crate::tracing;

/// The schedules of code and file, checked.
///
/// # Errors
/// A mistake in one of them, or two different ones with the same name in the same place.
pub(crate) fn declared(app: &App) -> Result<Vec<(Origin, Schedule)>> {
    let mut found: Vec<(Origin, Schedule)> = Vec::new();
    for task in app.registry().iter() {
        if let Some(schedule) = of_task(task)? {
            found.push((Origin::Code, schedule));
        }
    }
    let mut names: BTreeMap<&str, &Schedule> = BTreeMap::new();
    for schedule in &app.config().schedules {
        if names.insert(&schedule.name, schedule).is_some_and(|other| other != schedule) {
            return Err(Error::config(format!(
                "two schedules in `mq-worker.toml` are named `{}` and are not the same: give one of them another name",
                schedule.name
            )));
        }
    }
    found.extend(names.into_values().map(|schedule| (Origin::File, schedule.clone())));
    if found.len() > MOST {
        return Err(Error::config(format!(
            "this program has {} schedules, and a broker keeps {MOST} at most",
            found.len()
        )));
    }
    for (_, schedule) in &found {
        app.schedules().check(schedule)?;
        let task = app.registry().get(&schedule.task);
        if task.is_some_and(|task| task.options.unique_for.is_some()) && schedule.overlap == Overlap::Allow {
            tracing::warn!(
                schedule = schedule.name,
                task = schedule.task,
                "`unique_for` does not apply to scheduled calls: `overlap = \"skip\"` does"
            );
        }
    }
    Ok(found)
}

/// The schedule of a task, named like the task.
fn of_task(task: &TaskEntry) -> Result<Option<Schedule>> {
    let options = &task.options;
    let timing = match (options.cron, options.every) {
        (Some(cron), _) => Timing::cron(cron),
        (None, Some(every)) => Timing::every(every),
        (None, None) => return Ok(None),
    };
    let timing = timing.and_then(|timing| match options.tz {
        Some(zone) => timing.in_zone(zone),
        None => Ok(timing),
    });
    let timing = timing.map_err(|error| error.context(format_args!("task `{}`", task.name)))?;
    let schedule = Schedule::new(task.name, task.name, timing)
        .overlap(options.overlap)
        .catch_up(options.catch_up)
        .jitter(options.jitter.unwrap_or_default());
    Ok(Some(schedule))
}

/// The entries that bring the log up to date with this program: schedules that are new or have changed, and removals of
/// those that it no longer has.
pub(super) fn changes(
    declared: &[(Origin, Schedule)],
    program: &str,
    state: &State,
    now: DateTime<Utc>,
) -> Vec<Entry> {
    let mut changes = Vec::new();
    for (origin, schedule) in declared {
        let known = state.records.get(&schedule.name).and_then(|record| record.of(origin));
        if let Some(known) = known.filter(|known| known.program != program) {
            tracing::warn!(
                schedule = schedule.name,
                program = known.program,
                "another program had a schedule of this name, which is replaced"
            );
        }
        if known.is_none_or(|known| known.schedule != *schedule || known.program != program) {
            let (schedule, origin, program) =
                (Box::new(schedule.clone()), origin.clone(), program.to_owned());
            changes.push(Entry::Put { schedule, origin, program, since: now });
        }
    }
    for (name, record) in &state.records {
        for origin in [Origin::Code, Origin::File] {
            let is_gone = record.of(&origin).is_some_and(|known| known.program == program)
                && !declared.iter().any(|(other, schedule)| *other == origin && schedule.name == *name);
            if is_gone {
                changes.push(Entry::Remove { name: name.clone(), origin });
            }
        }
    }
    changes
}

impl Reader {
    /// Writes the declared schedules of this program that are not in the log yet.
    pub(crate) async fn declare(&mut self, declared: &[(Origin, Schedule)], program: &str) -> Result<()> {
        let changes = changes(declared, program, &self.state, Utc::now());
        if changes.is_empty() {
            return Ok(());
        }
        self.append(&changes).await?;
        self.catch_up().await.map(drop)
    }
}
