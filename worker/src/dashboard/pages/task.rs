//! One call: its timeline, its arguments and result, and why it is not running.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::layout::{Liveness, Section, empty, heading, page};
use super::letters::{self, cut, hidden};
use super::parts::{
    ago, button, bytes, confirmed, exact, for_minutes, hidden as fields_of, queue_link, span,
    state as state_of, task_link,
};
use super::tasks::ran_for;
use crate::admin::dead::letter::Letter;
use crate::app::{Pausable, Pause};
use crate::dashboard::call::{self, Call};
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;
use crate::dashboard::state::State;
use crate::history::{Attempt, Job, JobState};

/// The most bytes of arguments that can be edited here: an open page reloads them with every update.
const EDITED: usize = 100_000;

/// `GET /tasks/{id}`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Response {
    state.watcher.fresh().await;
    let call = match call::find(&state, &id).await {
        Ok(Some(call)) => call,
        Ok(None) => {
            let hint = "No events were recorded for it: its id is mistyped, it is older than the history, or its sender and workers emit no events.";
            let content = html! { (heading("No such call", &html! {}, &html! {})) div #life data-live { (empty(&id, hint)) } };
            let page = page(&state, &viewer, Section::Tasks, &id, Liveness::Live, &content);
            return (StatusCode::NOT_FOUND, page).into_response();
        }
        Err(problem) => {
            let content =
                html! { (heading("One call", &html! {}, &html! {})) (empty("Cannot look it up", &problem)) };
            let page = page(&state, &viewer, Section::Tasks, &id, Liveness::Still, &content);
            return (StatusCode::INTERNAL_SERVER_ERROR, page).into_response();
        }
    };
    let name = call.name().to_owned();
    let is_hidden = state.privacy.hides(&name);
    let content = html! {
        (heading(&name, &html! { span.code { (id) } }, &actions(&state, &viewer, &call)))
        dl #facts .facts data-live { (facts(&call, is_hidden)) }
        @if !call.reasons.is_empty() {
            section aria-labelledby="why" {
                h2 #why { "Why it is not running" }
                ul #reasons .reasons data-live { @for reason in &call.reasons { li { (reason) } } }
            }
        }
        section aria-labelledby="life" {
            h2 #life { "Timeline" }
            div #timeline data-live { (timeline(&call.job)) }
        }
        section aria-labelledby="data" {
            h2 #data { "Arguments and result" }
            dl #values .facts.long data-live { (values(&call, is_hidden)) }
        }
        @if viewer.may_act() {
            section aria-labelledby="again" {
                h2 #again { "Replay with changes" }
                (edit(&viewer, &call, is_hidden))
            }
        }
        (family(&call))
        @if let Some(message) = &call.letter {
            section aria-labelledby="headers" {
                h2 #headers { "Headers of the dead letter" }
                @let details = serde_json::to_value(Letter::of(message).details()).unwrap_or_default();
                (letters::headers(&details["headers"], is_hidden))
            }
        }
    };
    page(&state, &viewer, Section::Tasks, &name, Liveness::Live, &content).into_response()
}

fn actions(state: &State, viewer: &Viewer, call: &Call) -> Markup {
    let id = call.job.id.as_str();
    let fields = [("ids", id)];
    let is_over = call.job.state.is_final();
    let back = path::task(id);
    let fields_back = [("ids", id), ("back", back.as_str())];
    let task = call.job.name.as_deref();
    let is_paused = |task: &str| {
        let is_it = |pause: &Pause| matches!(&pause.what, Pausable::Task(paused) if paused == task);
        state.watcher.latest().paused.iter().any(is_it)
    };
    html! {
        @if is_over { (button(viewer, "replay", &fields_back, "Replay")) }
        @if let Some(task) = task {
            @if is_paused(task) { (button(viewer, "resume", &[("task", task), ("back", &back)], "Resume task")) }
            @else {
                (confirmed(viewer, "pause", &[("task", task), ("back", &back)], "Pause task", &format!("Workers requeue all calls of {task}; running tasks continue."), &for_minutes()))
            }
        }
        @if !is_over { (confirmed(viewer, "revoke", &fields, "Revoke", "A waiting call will not be run; a running one continues.", &html! {})) }
        @if call.running.is_some() {
            (confirmed(viewer, "revoke", &[("ids", id), ("terminate", "true")], "Terminate", "It is stopped where it runs, and will not be run again.", &html! {}))
        }
    }
}

fn facts(call: &Call, is_hidden: bool) -> Markup {
    let job = &call.job;
    html! {
        div { dt { "State" } dd { (state_of(job.state.as_str())) } }
        div { dt { "Queue" } dd { @match &job.queue { Some(queue) => (queue_link(queue)), None => "–" } } }
        div { dt { "Worker" } dd {
            @match call.running.as_ref().or(job.worker.as_ref()) {
                Some(worker) => a.code href=(path::worker(worker)) { (worker) },
                None => "–",
            }
        } }
        div { dt { "Attempts" } dd { (job.attempts.len().max(usize::from(job.retries > 0) * (job.retries as usize + 1))) } }
        div { dt { "Ran for" } dd { (ran_for(job).map_or("–".into(), span)) } }
        div { dt { "Waited for" } dd { (waited(job).map_or("–".into(), span)) } }
        @if let Some(said) = &job.reported { div { dt { "Progress" } dd { (if is_hidden { said.state.clone() } else { said.to_string() }) } } }
        @if let Some((name, due)) = &call.schedule {
            div { dt { "Sent by schedule" } dd { a.code href=(path::schedule(name)) { (name) } ", due " (ago(*due)) } }
        }
        @if let Some(eta) = job.eta { div { dt { "Not before" } dd { (ago(eta)) } } }
        @if let Some(expires) = job.expires { div { dt { "Expires" } dd { (ago(expires)) } } }
    }
}

fn waited(job: &Job) -> Option<f64> {
    let first = job.attempts.first()?.started_at?;
    Some((first - job.sent_at.or(job.received_at)?).as_seconds_f64().max(0.0))
}

fn timeline(job: &Job) -> Markup {
    let point = |at: Option<chrono::DateTime<chrono::Utc>>, text: &str, tone: &str| {
        html! { @if let Some(at) = at { li class=(tone) { p.strong { (text) } p.note { (exact(at)) " · " (ago(at)) } } } }
    };
    html! {
        ol.timeline {
            (point(job.sent_at, "Sent", ""))
            (point(job.received_at, "Received by a worker", ""))
            @for (index, attempt) in job.attempts.iter().enumerate() { (run(index, attempt)) }
            @match job.state {
                JobState::DeadLettered => (point(Some(job.state_at), &with("Moved to the dead-letter queue", job.reason.as_deref()), "bad")),
                JobState::Revoked => (point(Some(job.state_at), &with("Revoked", job.reason.as_deref()), "warn")),
                JobState::Rejected => (point(Some(job.state_at), &with("Rejected", job.reason.as_deref()), "bad")),
                JobState::Delayed => (point(Some(job.state_at), "Waits for its time", "warn")),
                _ => {},
            }
        }
    }
}

fn with(text: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| text.to_owned(), |reason| format!("{text}: {reason}"))
}

fn run(index: usize, attempt: &Attempt) -> Markup {
    let tone = match attempt.outcome {
        None => "busy",
        Some(JobState::Success) => "good",
        Some(JobState::Retry | JobState::Revoked) => "warn",
        Some(_) => "bad",
    };
    let number = attempt.retries.map_or(index + 1, |retries| retries as usize + 1);
    let took =
        attempt.ended_at.zip(attempt.started_at).map(|(end, start)| (end - start).as_seconds_f64().max(0.0));
    html! {
        li class=(tone) {
            p.strong {
                "Attempt " (number) " "
                @match attempt.outcome { Some(outcome) => (state_of(outcome.as_str())), None => (state_of("running")) }
            }
            p.note {
                @if let Some(at) = attempt.started_at.or(attempt.ended_at) { (exact(at)) }
                @if let Some(worker) = &attempt.worker { " on " a.code href=(path::worker(worker)) { (worker) } }
                @if let Some(took) = took { " · took " (span(took)) }
            }
            @if let Some(error) = &attempt.error { pre { (error) } }
        }
    }
}

fn values(call: &Call, is_hidden: bool) -> Markup {
    let job = &call.job;
    let value = |text: &str| if is_hidden { hidden() } else { cut(text) };
    html! {
        div { dt { "Arguments" } dd { (value(call.args.as_deref().or(job.args.as_deref()).unwrap_or("not known"))) } }
        div { dt { "Keyword arguments" } dd { (value(call.kwargs.as_deref().or(job.kwargs.as_deref()).unwrap_or("not known"))) } }
        @if let Some(result) = &job.result { div { dt { "Result" } dd { (value(result)) } } }
        @if let Some(error) = &job.error { div { dt { "Error" } dd { (cut(error)) } } }
        @if let Some(traceback) = &job.traceback { div { dt { "Traceback" } dd { (cut(traceback)) } } }
    }
}

/// A form that sends the call again, as it was or changed.
fn edit(viewer: &Viewer, call: &Call, is_hidden: bool) -> Markup {
    let name = call.name();
    let queue = call.job.queue.as_deref().unwrap_or_default();
    let size = [&call.args, &call.kwargs].into_iter().flatten().map(String::len).sum::<usize>();
    let is_large = size > EDITED;
    let is_left_out = is_hidden || is_large;
    let text =
        |json: &Option<String>| if is_left_out { String::new() } else { json.clone().unwrap_or_default() };
    let is_known = !is_left_out && call.args.is_some() && call.kwargs.is_some();
    html! {
        form.edit method="post" action="/act" {
            (fields_of(viewer, "send", &[]))
            @if !is_known {
                p.note {
                    @if is_hidden { "The arguments are hidden: enter them." }
                    @else if is_large { "The arguments are too long to edit here (" (bytes(size as u64)) "): replay the call as it was, or enter others." }
                    @else { "The arguments are not known in full, since events shorten them: check them before sending." }
                }
            }
            label { "Task" input name="task" value=(name) required spellcheck="false"; }
            label { "Arguments, a JSON array" textarea name="args" rows="4" spellcheck="false" { (text(&call.args)) } }
            label { "Keyword arguments, a JSON object" textarea name="kwargs" rows="3" spellcheck="false" { (text(&call.kwargs)) } }
            label { "Queue" input name="queue" value=(queue) spellcheck="false"; }
            div.actions { button.primary type="submit" { "Send as a new call" } }
        }
    }
}

fn family(call: &Call) -> Markup {
    let job = &call.job;
    let root = job.root.as_deref().filter(|root| *root != job.id);
    html! {
        @if root.is_some() || job.parent.is_some() || !call.children.is_empty() {
            section aria-labelledby="family" {
                h2 #family { "Workflow" }
                dl.facts.long {
                    @if let Some(root) = root { div { dt { "Began with" } dd { (task_link(root)) } } }
                    @if let Some(parent) = &job.parent { div { dt { "Sent by" } dd { (task_link(parent)) } } }
                    @if !call.children.is_empty() {
                        div { dt { "Has sent" } dd {
                            ul { @for child in &call.children {
                                li { (task_link(&child.id)) " " span.code { (child.name.as_deref().unwrap_or_default()) } " " (state_of(child.state.as_str())) }
                            } }
                        } }
                    }
                }
            }
        }
    }
}
