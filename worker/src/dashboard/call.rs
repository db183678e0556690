//! Everything known about one call: from the history, the workers and its dead letter.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::state::State;
use crate::admin::dead::letter::Letter;
use crate::admin::dead::survey;
use crate::admin::explain::explain;
use crate::control::Control;
use crate::history::{Filter, Job, JobState, json_of_literal};
use crate::message::Message;

/// How long workers have to reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);
/// How many of the calls that it sent are listed.
const CHILDREN: usize = 50;

/// One call.
pub(crate) struct Call {
    pub(crate) job: Job,
    /// The worker that runs it now.
    pub(crate) running: Option<String>,
    /// Its dead letter, if it has one.
    pub(crate) letter: Option<Message>,
    /// Its arguments as JSON, if they are known in full.
    pub(crate) args: Option<String>,
    pub(crate) kwargs: Option<String>,
    /// The calls that it sent.
    pub(crate) children: Vec<Job>,
    /// Why it is not running.
    pub(crate) reasons: Vec<String>,
    /// The schedule that sent it, and when it was due.
    pub(crate) schedule: Option<(String, DateTime<Utc>)>,
}

impl Call {
    /// The task's name.
    pub(crate) fn name(&self) -> &str {
        self.job.name.as_deref().unwrap_or("(unknown task)")
    }
}

/// Collects what is known about a call. `None` if the history does not have it.
pub(crate) async fn find(state: &State, id: &str) -> Result<Option<Call>, String> {
    let text = |error: crate::error::Error| format!("{error:#}");
    let Some(job) = state.history.job(id).await.map_err(text)? else { return Ok(None) };
    let snapshot = state.watcher.latest();
    let running = snapshot.workers.iter().find(|worker| worker.tasks.iter().any(|task| task.id == id));
    let letter = match (&job.state, &job.queue) {
        (state_of, Some(queue)) if may_have_letter(*state_of) => {
            // Without a dead-letter queue there is no letter.
            state.asking(survey::letter(&state.app, queue, id)).await.ok().flatten()
        }
        _ => None,
    };
    let children = Filter { parent: Some(id.to_owned()), ..Filter::default() };
    let children = state.history.jobs(children, CHILDREN, None).await.map_err(text)?.jobs;
    let (args, kwargs) = match &letter {
        Some(message) => {
            let letter = Letter::of(message);
            let (args, kwargs, _) = letter.parts();
            (Some(args.get().to_owned()), Some(kwargs.get().to_owned()))
        }
        None => (
            job.args.as_deref().and_then(json_of_literal),
            job.kwargs.as_deref().map_or(Some("{}".into()), json_of_literal),
        ),
    };
    let needs_no_reason = job.state == JobState::Success || running.is_some();
    let reasons = if needs_no_reason { Vec::new() } else { reasons(state, id).await };
    // Not worth an error: everything else is known.
    let schedule = state.app.schedules().of_call(id).await.ok().flatten();
    let not_null = |text: Option<String>| text.filter(|text| text != "null");
    Ok(Some(Call {
        running: running.map(|worker| worker.info.name.clone()),
        letter,
        args: not_null(args),
        kwargs: not_null(kwargs),
        children,
        reasons,
        schedule,
        job,
    }))
}

/// True for a call that may be in a dead-letter queue.
pub(crate) fn may_have_letter(state: JobState) -> bool {
    matches!(state, JobState::DeadLettered | JobState::Failure | JobState::Rejected)
}

/// Returns the reasons why a call is not running, and what could not be determined.
async fn reasons(state: &State, id: &str) -> Vec<String> {
    if let Err(away) = state.reachable() {
        return vec![away.into_parts().1];
    }
    let Ok(broker) = state.app.broker().await else { return Vec::new() };
    let control = Control::new(broker).timeout(REPLY_TIMEOUT);
    match explain(&state.app, Some(&state.history), &control, id).await {
        Ok(found) => found.reasons.iter().map(ToString::to_string).chain(found.gaps).collect(),
        Err(error) => vec![format!("{error:#}")],
    }
}
