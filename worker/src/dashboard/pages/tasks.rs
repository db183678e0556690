//! Calls, the newest first, with a search and bulk actions.

use std::sync::Arc;

use axum::extract::{Query as Asked, State as Shared};
use maud::{Markup, html};

use super::layout::{Liveness, Section, csrf, empty, heading, page};
use super::parts::{
    ago, confirmed, exact, for_minutes, maybe_span, queue_link, state as state_of, task_link,
};
use crate::dashboard::guard::Viewer;
use crate::dashboard::query::Query;
use crate::dashboard::state::State;
use crate::history::{History, Job, JobState, Page};
use crate::show::one_line;

/// How many calls are on a page.
const PAGE: usize = 50;

/// `GET /tasks`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Asked(query): Asked<Query>,
) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let found = find(&state.history, &query).await;
    let content = html! {
        (heading("Tasks", &html! { "Every call, while it waits, runs and after it has ended." }, &pause(&viewer, &query.name)))
        (form(&query, &snapshot.queues.iter().map(|queue| queue.name.as_str()).collect::<Vec<_>>()))
        @match &found {
            Ok(found) => (list(&state, &viewer, &query, found)),
            Err(problem) => div #calls data-live { (empty("Cannot search", problem)) },
        }
    };
    // Only the first page is live: others would shift while being read.
    let liveness = if query.after.is_empty() { Liveness::Live } else { Liveness::Still };
    page(&state, &viewer, Section::Tasks, "Tasks", liveness, &content)
}

/// A button that pauses a task.
fn pause(viewer: &Viewer, name: &str) -> Markup {
    // A pattern is not a task name.
    let name = if name.contains(['*', '?', '[']) { "" } else { name };
    confirmed(
        viewer,
        "pause",
        &[("back", "/tasks")],
        "Pause a task",
        "Workers requeue its calls; running tasks continue.",
        &html! {
            label { "Task" input name="task" value=(name) required autocomplete="off" spellcheck="false"; }
            (for_minutes())
        },
    )
}

/// The calls of one page.
pub(crate) async fn find(history: &History, query: &Query) -> Result<Page, String> {
    let after = match query.after.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error: crate::error::Error| error.to_string())?),
    };
    history.jobs(query.filter()?, PAGE, after).await.map_err(|error| format!("{error:#}"))
}

fn form(query: &Query, queues: &[&str]) -> Markup {
    html! {
        form.filter method="get" action="/tasks" role="search" {
            label {
                "Text in arguments or error"
                input type="search" name="text" value=(query.text) data-search placeholder="press / to search";
            }
            label { "Task" input name="name" value=(query.name) placeholder="send_*" spellcheck="false"; }
            label {
                "State"
                select name="state" {
                    option value="" { "any" }
                    @for state in JobState::all() {
                        @let name = state.as_str();
                        option value=(name) selected[query.state.eq_ignore_ascii_case(name)] { (name.to_lowercase()) }
                    }
                }
            }
            label {
                "Queue"
                input name="queue" value=(query.queue) list="known-queues" spellcheck="false";
                datalist #known-queues { @for queue in queues { option value=(queue) {} } }
            }
            label { "Worker" input name="worker" value=(query.worker) spellcheck="false"; }
            label { "Id begins with" input name="id" value=(query.id) spellcheck="false"; }
            label { "From (UTC)" input type="datetime-local" name="from" value=(query.from); }
            label { "To (UTC)" input type="datetime-local" name="to" value=(query.to); }
            @if !query.root.is_empty() { input type="hidden" name="root" value=(query.root); }
            @if !query.parent.is_empty() { input type="hidden" name="parent" value=(query.parent); }
            div.actions {
                button.primary type="submit" { "Search" }
                @if !query.is_empty() { a.button href="/tasks" { "Clear" } }
            }
        }
    }
}

fn list(state: &State, viewer: &Viewer, query: &Query, found: &Page) -> Markup {
    html! {
        form method="post" action="/act" {
            (csrf(viewer))
            input type="hidden" name="back" value=(query.path(&query.after));
            @for (name, value) in fields(query) { input type="hidden" name={ "filter." (name) } value=(value); }
            @if viewer.may_act() && !found.jobs.is_empty() {
                div.bulk {
                    button type="submit" name="action" value="replay" { "Replay" }
                    button type="submit" name="action" value="revoke" { "Revoke" }
                    label.check { input type="checkbox" name="everything" value="true"; "all that the search finds" }
                    span data-ticked="" aria-live="polite" {}
                }
            }
            div #calls data-live {
                @if found.jobs.is_empty() {
                    @if query.is_empty() {
                        (empty("Nothing has happened yet", "Calls appear here when workers run with events: mq-worker --events, or events = true in [worker]."))
                    } @else {
                        (empty("Nothing found", "No call meets all of these conditions."))
                    }
                } @else {
                    (table(state, viewer, &found.jobs))
                }
                @if let Some(to) = found.searched_to { p.note { "The search took long and has looked back to " (exact(to)) "; the next page goes on from there." } }
            }
        }
        @if !query.after.is_empty() || found.next.is_some() {
            div.pager {
                @if !query.after.is_empty() { a.button href=(query.path("")) { "Newest" } }
                @if let Some(next) = found.next { a.button href=(query.path(&next.to_string())) rel="next" { "Older" } }
            }
        }
    }
}

/// The conditions that are set, by name.
fn fields(query: &Query) -> Vec<(String, String)> {
    let fields = serde_json::to_value(query).unwrap_or_default();
    let fields = fields.as_object().cloned().unwrap_or_default().into_iter();
    let text = fields.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
    text.filter(|(name, value)| name != "after" && !value.is_empty()).collect()
}

/// A table of calls.
pub(crate) fn table(state: &State, viewer: &Viewer, jobs: &[Job]) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        @if viewer.may_act() {
                            th scope="col" { input type="checkbox" data-all aria-label="Select all on this page"; }
                        }
                        th scope="col" { "Task" }
                        th scope="col" { "State" }
                        th scope="col" { "Id" }
                        th scope="col" .wide { "Queue" }
                        th scope="col" .wide { "Arguments" }
                        th scope="col" .number.wide { "Ran for" }
                        th scope="col" .number { "When" }
                    }
                }
                tbody { @for job in jobs { (row(state, viewer, job)) } }
            }
        }
    }
}

fn row(state: &State, viewer: &Viewer, job: &Job) -> Markup {
    let name = job.name.as_deref().unwrap_or("(unknown)");
    html! {
        tr {
            @if viewer.may_act() {
                td { input type="checkbox" name="ids" value=(job.id) aria-label={ "Select " (name) " " (job.id) }; }
            }
            th scope="row" .code { (name) }
            td.state-cell { (state_of(job.state.as_str())) }
            td { (task_link(&job.id)) }
            td.wide { @if let Some(queue) = &job.queue { (queue_link(queue)) } }
            td.wide.code.cut {
                @match (&job.error, state.privacy.hides(name)) {
                    (Some(error), _) if !matches!(job.state, JobState::Success | JobState::Started) => span.bad { (one_line(error, 120)) },
                    (_, true) => (super::letters::hidden()),
                    _ => (arguments(job)),
                }
            }
            td.number.wide { (maybe_span(ran_for(job))) }
            td.number.time { (ago(job.state_at)) }
        }
    }
}

/// Arguments in one line.
fn arguments(job: &Job) -> String {
    let shown =
        |text: &Option<String>| text.clone().filter(|text| !matches!(text.as_str(), "()" | "[]" | "{}" | ""));
    let parts: Vec<String> = [shown(&job.args), shown(&job.kwargs)].into_iter().flatten().collect();
    one_line(&parts.join(" "), 120)
}

/// How long the last attempt took, in seconds.
pub(crate) fn ran_for(job: &Job) -> Option<f64> {
    let last = job.attempts.last()?;
    Some((last.ended_at? - last.started_at?).as_seconds_f64().max(0.0))
}
