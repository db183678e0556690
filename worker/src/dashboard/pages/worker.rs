//! One worker: its running tasks, its queues and actions.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use maud::{Markup, html};
use serde_json::Value;

use super::layout::{Liveness, Section, empty, heading, page};
use super::letters::hidden;
use super::parts::{button, bytes, confirmed, count, queue_link, span, task_link};
use super::workers::{slots, state as state_of};
use crate::dashboard::guard::Viewer;
use crate::dashboard::snapshot::{RunningView, WorkerView};
use crate::dashboard::state::State;
use crate::show::one_line;

/// `GET /workers/{name}`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Response {
    let snapshot = state.watcher.fresh().await;
    let Some(worker) = snapshot.worker(&name) else {
        let hint = "It has stopped, is too busy to reply, or answers no remote control.";
        let content = html! {
            (heading(&name, &html! { "Worker" }, &html! {}))
            div #tasks data-live { (empty("This worker does not reply", hint)) }
        };
        let page = page(&state, &viewer, Section::Workers, &name, Liveness::Live, &content);
        return (StatusCode::NOT_FOUND, page).into_response();
    };
    let info = &worker.info;
    let content = html! {
        (heading(&name, &html! { (worker.software.as_deref().unwrap_or("Worker")) }, &actions(&viewer, worker)))
        dl #facts .facts data-live {
            div { dt { "State" } dd { (state_of(info)) } }
            div { dt { "Slots" } dd { (slots(info)) } }
            div { dt { "Prefetch" } dd { (count(info.prefetch)) @if info.prefetch_auto { " (auto)" } } }
            div { dt { "Started tasks" } dd { (count(info.started)) } }
            div { dt { "Up" } dd { (info.uptime.map_or("–".into(), |seconds| span(seconds as f64))) } }
            div { dt { "Peak memory" } dd { (worker.memory_bytes.map_or("–".into(), bytes)) } }
            div { dt { "Process" } dd { (info.pid.map_or("–".into(), |pid| pid.to_string())) } }
        }
        section aria-labelledby="running" {
            h2 #running { "Running tasks" }
            div #tasks data-live { (tasks(&state, &worker.tasks)) }
        }
        section aria-labelledby="queues" {
            h2 #queues { "Queues" }
            div #consumes data-live {
                @if info.queues.is_empty() { p.note { "It consumes from no queue." } }
                ul.plain {
                    @for queue in &info.queues {
                        li.with-action {
                            (queue_link(queue))
                            (button(&viewer, "cancel-queue", &[("worker", &name), ("queue", queue)], "Cancel"))
                        }
                    }
                }
            }
        }
    };
    page(&state, &viewer, Section::Workers, &name, Liveness::Live, &content).into_response()
}

fn actions(viewer: &Viewer, worker: &WorkerView) -> Markup {
    let name = worker.info.name.as_str();
    let question = format!(
        "{name} finishes its running tasks, requeues the rest and exits. Nothing starts it again from here."
    );
    html! {
        @if !worker.info.stopping {
            (confirmed(viewer, "resize-worker", &[("worker", name)], "Slots", &format!("{name} gets more slots, or fewer: what runs in them ends first."), &html! {
                label { "Change by" input name="by" type="number" min="-10000" max="10000" required value="1"; }
            }))
            (confirmed(viewer, "add-queue", &[("worker", name)], "Add queue", &format!("{name} also consumes from this queue, until it is restarted."), &html! {
                label { "Queue" input name="queue" required autocomplete="off" spellcheck="false"; }
            }))
            (confirmed(viewer, "stop-worker", &[("worker", name)], "Stop", &question, &html! {}))
        }
    }
}

/// The table of running tasks.
pub(crate) fn tasks(state: &State, tasks: &[RunningView]) -> Markup {
    if tasks.is_empty() {
        return html! { p.note { "It runs nothing at the moment." } };
    }
    let now = Utc::now().timestamp_micros() as f64 / 1e6;
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "Task" }
                        th scope="col" { "Id" }
                        th scope="col" .wide { "Queue" }
                        th scope="col" .wide { "Arguments" }
                        th scope="col" .number { "Running for" }
                    }
                }
                tbody {
                    @for task in tasks {
                        tr {
                            th scope="row" .code { (task.task) }
                            td { (task_link(&task.id)) }
                            td.wide { @if let Some(queue) = &task.queue { (queue_link(queue)) } }
                            td.wide.code.cut {
                                @if state.privacy.hides(&task.task) { (hidden()) }
                                @else { (arguments(&task.args, &task.kwargs)) }
                            }
                            td.number { (task.since.map_or("–".into(), |since| span((now - since).max(0.0)))) }
                        }
                    }
                }
            }
        }
    }
}

/// Arguments in one line.
fn arguments(args: &Value, kwargs: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let is_empty = |value: &Value| match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => matches!(text.as_str(), "()" | "{}" | ""),
        value => value.is_null(),
    };
    let parts = [args, kwargs].into_iter().filter(|value| !is_empty(value)).map(text);
    one_line(&parts.collect::<Vec<_>>().join(" "), 120)
}
