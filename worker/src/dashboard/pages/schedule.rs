//! One schedule: its calls, and a form that changes it.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::json;

use super::layout::{Liveness, Section, empty, heading, page};
use super::letters::{cut, hidden};
use super::parts::{ago, confirmed, exact, queue_link, task_link};
use super::schedule_form::form;
use super::schedules::{buttons, next, nobody, origin, outcome};
use crate::admin::failure::Outcome;
use crate::admin::schedules::add_outcomes;
use crate::app::ScheduleInfo;
use crate::app::schedules::Origin;
use crate::dashboard::guard::Viewer;
use crate::dashboard::state::State;

/// `GET /schedules/{name}`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Response {
    let problem = |status: StatusCode, text: &str| {
        let content =
            html! { (heading(&name, &html! { "Schedule" }, &html! {})) (empty("Cannot show it", text)) };
        let page = page(&state, &viewer, Section::Schedules, &name, Liveness::Still, &content);
        (status, page).into_response()
    };
    match find(&state, &name).await {
        Ok(Some(found)) => {
            let content = content(&state, &viewer, &found);
            page(&state, &viewer, Section::Schedules, &name, Liveness::Live, &content).into_response()
        }
        Ok(None) => problem(StatusCode::NOT_FOUND, "There is no schedule of this name."),
        Err(failure) => problem(StatusCode::SERVICE_UNAVAILABLE, &failure.into_parts().1),
    }
}

/// Returns the schedule with the outcomes of its last calls.
pub(crate) async fn find(state: &State, name: &str) -> Outcome<Option<ScheduleInfo>> {
    let found = state.asking(async { Ok(state.app.schedules().get(name).await?) }).await?;
    let mut found: Vec<ScheduleInfo> = found.into_iter().collect();
    add_outcomes(&state.history, &mut found).await?;
    state.watcher.fresh().await.mark(&mut found);
    Ok(found.pop())
}

fn content(state: &State, viewer: &Viewer, found: &ScheduleInfo) -> Markup {
    let schedule = &found.schedule;
    let name = schedule.name.as_str();
    let is_hidden = state.privacy.hides(&schedule.task);
    let remove = confirmed(
        viewer,
        "remove-schedule",
        &[("schedule", name), ("back", "/schedules")],
        "Remove",
        "Remove what was added or edited by hand? What code and file say is in force again.",
        &html! {},
    );
    let actions = html! {
        (buttons(viewer, found))
        @if found.origin == Origin::Hand { (remove) }
    };
    html! {
        (heading(name, &html! { "Schedule of " span.code { (schedule.task) } }, &actions))
        dl #facts .facts data-live { (facts(found)) }
        section aria-labelledby="coming" {
            h2 #coming { "Next calls" }
            div #upcoming data-live {
                @if found.upcoming.is_empty() { p.note { "None." } }
                ul.plain { @for at in &found.upcoming { li { (exact(*at)) " · " (ago(*at)) } } }
            }
        }
        section aria-labelledby="runs" {
            h2 #runs { "Last calls" }
            div #last data-live {
                @if found.runs.is_empty() { p.note { "None yet." } }
                @else { (runs(found)) }
            }
        }
        section aria-labelledby="values" {
            h2 #values { "Arguments" }
            dl.facts.long {
                div { dt { "Arguments" } dd { @if is_hidden { (hidden()) } @else { (cut(&json!(schedule.args).to_string())) } } }
                div { dt { "Keyword arguments" } dd { @if is_hidden { (hidden()) } @else { (cut(&json!(schedule.kwargs).to_string())) } } }
            }
        }
        @if viewer.may_act() {
            section aria-labelledby="edit" {
                h2 #edit { "Edit" }
                @if found.origin != Origin::Hand {
                    p.note { "What is saved here wins over what is written " (place(&found.origin)) ", until it is removed." }
                }
                (form(viewer, Some(schedule), is_hidden))
            }
        }
    }
}

fn place(origin: &Origin) -> &'static str {
    match origin {
        Origin::Code => "at its task in the code",
        Origin::File => "in mq-worker.toml",
        Origin::Hand => "by hand",
    }
}

fn facts(found: &ScheduleInfo) -> Markup {
    let schedule = &found.schedule;
    html! {
        @if found.has_no_worker() { div { dt { "Task" } dd { (nobody()) } } }
        div { dt { "When" } dd { (schedule.timing) } }
        div { dt { "Next" } dd { (next(found)) } }
        div { dt { "From" } dd { (origin(found)) ", program " span.code { (found.program) } } }
        div { dt { "Queue" } dd { @match &schedule.queue { Some(queue) => (queue_link(queue)), None => "chosen by the routes" } } }
        div { dt { "Overlap" } dd { (schedule.overlap.as_str()) } }
        div { dt { "Catch up" } dd { (schedule.catch_up.as_str()) } }
        @if !schedule.jitter.is_zero() { div { dt { "Jitter" } dd { (humantime::format_duration(schedule.jitter)) } } }
        @if let Some(expires) = schedule.expires { div { dt { "Expires after" } dd { (humantime::format_duration(expires)) } } }
        @if let Some(waiting) = found.waiting {
            div { dt { "Waits for the previous call to end" } dd { (ago(waiting)) } }
        }
    }
}

fn runs(found: &ScheduleInfo) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { th scope="col" { "Due" } th scope="col" .wide { "Sent" } th scope="col" { "Call" } th scope="col" { "Outcome" } } }
                tbody {
                    @for run in &found.runs {
                        tr {
                            td { @if run.by_hand { "by hand" } @else { (ago(run.due)) } }
                            td.wide { @match run.sent_at { Some(at) => (ago(at)), None => "–" } }
                            td { (task_link(&run.id)) }
                            td {
                                (outcome(run))
                                @if let Some(error) = run.outcome.as_ref().and_then(|outcome| outcome.error.as_deref()) { " " span.why { (crate::show::one_line(error, 200)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
