//! All workers.

use std::sync::Arc;

use axum::extract::State as Shared;
use maud::{Markup, html};

use super::layout::{Liveness, Section, empty, heading, page};
use super::parts::{bytes, queue_link, span, state as state_of};
use crate::control::WorkerInfo;
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;
use crate::dashboard::snapshot::{Snapshot, WorkerView};
use crate::dashboard::state::State;

/// How many queues of a worker are named in the table.
const QUEUES: usize = 4;

/// `GET /workers`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let content = html! {
        (heading("Workers", &html! { "Rust and Python workers that reply." }, &html! {}))
        div #workers data-live { (table(&snapshot)) }
    };
    page(&state, &viewer, Section::Workers, "Workers", Liveness::Live, &content)
}

/// The table of workers.
pub(crate) fn table(snapshot: &Snapshot) -> Markup {
    if snapshot.workers.is_empty() {
        return empty("No worker replied", "Start one in the directory of your tasks: mq-worker");
    }
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "Worker" }
                        th scope="col" { "State" }
                        th scope="col" { "Slots" }
                        th scope="col" .wide { "Queues" }
                        th scope="col" .number.wide { "Started" }
                        th scope="col" .number.wide { "Memory" }
                        th scope="col" .number { "Up" }
                    }
                }
                tbody { @for worker in &snapshot.workers { (row(worker)) } }
            }
        }
    }
}

fn row(worker: &WorkerView) -> Markup {
    let info = &worker.info;
    html! {
        tr {
            th scope="row" { a.code href=(path::worker(&info.name)) { (info.name) } }
            td { (state(info)) }
            td { (slots(info)) }
            td.wide {
                @for (index, queue) in info.queues.iter().take(QUEUES).enumerate() {
                    @if index > 0 { ", " }
                    (queue_link(queue))
                }
                @if info.queues.len() > QUEUES { " and " (info.queues.len() - QUEUES) " more" }
            }
            td.number.wide { (super::parts::count(info.started)) }
            td.number.wide { (worker.memory_bytes.map_or("–".into(), bytes)) }
            td.number { (info.uptime.map_or("–".into(), |seconds| span(seconds as f64).replace(".0 s", " s"))) }
        }
    }
}

/// The state of a worker.
pub(crate) fn state(info: &WorkerInfo) -> Markup {
    html! {
        (state_of(if info.stopping { "stopping" } else { "working" }))
        @if info.settling > 0 { " " span.state.warn { (info.settling) " settling" } }
        @if info.lost_slots > 0 { " " span.state.bad { (info.lost_slots) " lost" } }
    }
}

/// The slots in use, as a bar and as numbers.
pub(crate) fn slots(info: &WorkerInfo) -> Markup {
    let (running, all) = (info.running.unwrap_or_default(), info.concurrency.unwrap_or_default());
    html! {
        span.slots {
            meter min="0" max=(all.max(1)) value=(running) { (running) " of " (all) }
            span.numbers { (running) "\u{2009}/\u{2009}" (all) }
        }
    }
}
