//! All schedules.

use std::sync::Arc;

use axum::extract::{Query, State as Shared};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Liveness, Section, empty, grouped, heading, page};
use super::parts::{ago, button, state as state_of};
use super::schedule_form::form;
use crate::admin::schedules::add_outcomes;
use crate::app::{ScheduleInfo, ScheduledRun};
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;
use crate::dashboard::state::State;

/// How many are shown at once.
const SHOWN: usize = 200;
/// The page is live up to this many schedules: every update reads all of them.
const FOLLOWED: usize = 500;

/// The query parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    q: String,
}

/// `GET /schedules`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Query(Asked { q }): Query<Asked>,
) -> Markup {
    let found = state.asking(async { Ok(state.app.schedules().list().await?) }).await;
    let is_much = found.as_ref().is_ok_and(|found| found.len() > FOLLOWED);
    let liveness = if is_much { Liveness::Still } else { Liveness::Live };
    let look_again = html! { @if is_much { a.button href="/schedules" { "Look again" } } };
    let below = html! { "What is called when. A scheduler sends the calls: " code { "mq-worker beat" } ", or a worker with " code { "--beat" } "." };
    let content = html! {
        (heading("Schedules", &below, &look_again))
        form.search method="get" action="/schedules" role="search" {
            input type="search" name="q" value=(q) placeholder="name or task" aria-label="name or task" spellcheck="false";
            button type="submit" { "Search" }
        }
        div #schedules data-live {
            @match found {
                Err(failure) => (empty("Cannot look", &failure.into_parts().1)),
                Ok(found) => (listed(&state, &viewer, q.trim(), found).await),
            }
        }
        @if viewer.may_act() {
            section aria-labelledby="add" {
                h2 #add { "Add a schedule" }
                (form(&viewer, None, false))
            }
        }
    };
    page(&state, &viewer, Section::Schedules, "Schedules", liveness, &content)
}

async fn listed(state: &State, viewer: &Viewer, q: &str, found: Vec<ScheduleInfo>) -> Markup {
    let all = found.len();
    let matches = |info: &ScheduleInfo| info.schedule.name.contains(q) || info.schedule.task.contains(q);
    let meant: Vec<ScheduleInfo> = found.into_iter().filter(matches).collect();
    let count = meant.len();
    let mut shown: Vec<ScheduleInfo> = meant.into_iter().take(SHOWN).collect();
    let gap = add_outcomes(&state.history, &mut shown).await.err();
    state.watcher.fresh().await.mark(&mut shown);
    html! {
        @if all == 0 {
            (empty("No schedules yet", "They are written at tasks, in mq-worker.toml, or added here."))
        } @else {
            @if count == 0 { (empty("None of them", "No schedule has this in its name or its task's.")) }
            @else { (table(viewer, &shown)) }
            @if count > shown.len() {
                p.note { "Shown are the first " (grouped(shown.len() as u64)) " of " (grouped(count as u64)) ": search for others." }
            }
            @if let Some(error) = gap { p.note { "Some outcomes are not known: " (format!("{error:#}")) } }
        }
    }
}

fn table(viewer: &Viewer, shown: &[ScheduleInfo]) -> Markup {
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "Schedule" }
                        th scope="col" .wide { "Task" }
                        th scope="col" { "When" }
                        th scope="col" { "Next" }
                        th scope="col" { "Last" }
                        th scope="col" .wide { "From" }
                        @if viewer.may_act() { th scope="col" { span.hidden-text { "Actions" } } }
                    }
                }
                tbody { @for info in shown { (row(viewer, info)) } }
            }
        }
    }
}

fn row(viewer: &Viewer, info: &ScheduleInfo) -> Markup {
    let name = info.schedule.name.as_str();
    html! {
        tr {
            th scope="row" {
                a.code href=(path::schedule(name)) { (name) }
                @if info.has_no_worker() { " " (nobody()) }
            }
            td.wide { span.code { (info.schedule.task) } }
            td { (info.schedule.timing) }
            td { (next(info)) }
            td { @match info.runs.first() { Some(run) => (last(run)), None => "–" } }
            td.wide { (origin(info)) }
            @if viewer.may_act() { td { div.actions { (buttons(viewer, info)) } } }
        }
    }
}

/// A warning that no worker runs its calls.
pub(crate) fn nobody() -> Markup {
    html! { span.state.bad title="no running worker has its task" { "no worker" } }
}

/// When it is sent next.
pub(crate) fn next(info: &ScheduleInfo) -> Markup {
    html! {
        @if info.paused { (state_of("paused")) @if let Some(until) = info.paused_until { " until " (ago(until)) } }
        @else if let Some(next) = info.next { (ago(next)) }
        @else { "never" }
    }
}

fn last(run: &ScheduledRun) -> Markup {
    html! { a href=(path::task(&run.id)) { (ago(run.due)) } " " (outcome(run)) }
}

/// The outcome of a call.
pub(crate) fn outcome(run: &ScheduledRun) -> Markup {
    html! { @match &run.outcome { Some(outcome) => (state_of(&outcome.state)), None => (state_of("not known")) } }
}

/// Where the schedule is defined.
pub(crate) fn origin(info: &ScheduleInfo) -> &'static str {
    info.origin.as_str()
}

/// The actions that need no confirmation.
pub(crate) fn buttons(viewer: &Viewer, info: &ScheduleInfo) -> Markup {
    let fields = [("schedule", info.schedule.name.as_str())];
    html! {
        (button(viewer, "run-schedule", &fields, "Run now"))
        @if info.paused { (button(viewer, "resume-schedule", &fields, "Resume")) }
        @else { (button(viewer, "pause-schedule", &fields, "Pause")) }
    }
}
