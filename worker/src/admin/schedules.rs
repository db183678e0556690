//! Schedules with the outcomes of their last calls: a history may know those that the result backend does not.

use std::collections::BTreeSet;

#[cfg(feature = "dashboard")]
use crate::app::RunOutcome;
use crate::app::{App, ScheduleInfo};
use crate::control::{Control, Registered};
use crate::error::Result;
#[cfg(feature = "dashboard")]
use crate::history::{History, Retention};

/// The most calls that are looked up for a list of schedules.
#[cfg(feature = "dashboard")]
const MOST: usize = 500;

/// All schedules, with outcomes from the configured history if there is one.
///
/// # Errors
/// The broker cannot be reached, or keeps no schedules.
pub(crate) async fn list(app: &App) -> Result<Vec<ScheduleInfo>> {
    let mut found = app.schedules().list().await?;
    from_configured_history(app, &mut found).await;
    from_workers(app, &mut found).await;
    Ok(found)
}

/// One schedule.
///
/// # Errors
/// The broker cannot be reached, or keeps no schedules.
pub(crate) async fn find(app: &App, name: &str) -> Result<Option<ScheduleInfo>> {
    let mut found: Vec<ScheduleInfo> = app.schedules().get(name).await?.into_iter().collect();
    from_configured_history(app, &mut found).await;
    from_workers(app, &mut found).await;
    Ok(found.pop())
}

/// Asks the running workers whether one has the task; returns a complaint if none has. `None` if no worker replies.
pub(crate) async fn complaint(app: &App, task: &str) -> Option<String> {
    registered(app, &BTreeSet::from([task])).await?.complaint(task)
}

async fn from_workers(app: &App, schedules: &mut [ScheduleInfo]) {
    let tasks: BTreeSet<String> = schedules.iter().map(|info| info.schedule.task.clone()).collect();
    if tasks.is_empty() {
        return;
    }
    let registered = registered(app, &tasks.iter().map(String::as_str).collect()).await;
    schedules.iter_mut().for_each(|info| info.mark(registered.as_ref()));
}

/// Asks the workers which of the tasks they have. A failure is only logged: the user asked for schedules, not for workers.
async fn registered(app: &App, tasks: &BTreeSet<&str>) -> Option<Registered> {
    let asked = async { Control::new(app.broker().await?).registered(tasks).await };
    asked.await.unwrap_or_else(|error| {
        crate::tracing::warn!(
            error = format!("{error:#}"),
            "the workers cannot be asked which tasks they have"
        );
        None
    })
}

#[cfg(not(feature = "dashboard"))]
async fn from_configured_history(_: &App, _: &mut [ScheduleInfo]) {}

/// Adds outcomes from the configured history. A failure is only logged: the user asked for schedules, not for the history.
#[cfg(feature = "dashboard")]
async fn from_configured_history(app: &App, schedules: &mut [ScheduleInfo]) {
    let config = app.config();
    if schedules.is_empty() || !config.history.exists() {
        return;
    }
    let retention = Retention { keep: config.history_keep, max_rows: config.history_max_rows };
    let added = match History::open_existing(&config.history, retention).await {
        Ok(history) => add_outcomes(&history, schedules).await,
        Err(error) => Err(error),
    };
    if let Err(error) = added {
        crate::tracing::warn!(
            error = format!("{error:#}"),
            "cannot read the history; showing schedules without it"
        );
    }
}

/// Adds outcomes from a history: of the last call of each schedule, or of all calls of a single one.
///
/// # Errors
/// The history cannot be read.
#[cfg(feature = "dashboard")]
pub(crate) async fn add_outcomes(history: &History, schedules: &mut [ScheduleInfo]) -> Result<()> {
    let each = if schedules.len() == 1 { usize::MAX } else { 1 };
    for schedule in schedules.iter_mut().take(MOST) {
        for run in schedule.runs.iter_mut().take(each) {
            if run.outcome.as_ref().is_some_and(|outcome| outcome.at.is_some()) {
                continue;
            }
            if let Some(job) = history.job(&run.id).await? {
                let (state, at) = (job.state.as_str().to_owned(), job.finished_at);
                run.outcome = Some(RunOutcome { state, at, error: job.error.or(job.reason) });
            }
        }
    }
    Ok(())
}
