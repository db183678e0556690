//! All queues.

use std::sync::Arc;

use axum::extract::State as Shared;
use maud::{Markup, html};

use super::chart::sparkline;
use super::layout::{Liveness, Section, empty, grouped, heading, page};
use super::parts::{count, maybe_span, queue_link, state as state_of};
use crate::dashboard::guard::Viewer;
use crate::dashboard::snapshot::{QueueView, Snapshot};
use crate::dashboard::state::State;

/// `GET /queues`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let content = html! {
        (heading("Queues", &html! { "Waiting, running and dead-lettered messages." }, &html! {}))
        div #queues data-live {
            (table(&state, &snapshot))
            @if let Some(delayed) = snapshot.delayed.filter(|delayed| *delayed > 0) {
                p.note { "Delayed, in all queues together: " b { (grouped(delayed)) } }
            }
            @if let Some(why) = &snapshot.queues_left_out { p.note { (why) } }
        }
    };
    page(&state, &viewer, Section::Queues, "Queues", Liveness::Live, &content)
}

/// The table of queues.
pub(crate) fn table(state: &State, snapshot: &Snapshot) -> Markup {
    if snapshot.queues.is_empty() {
        return empty(
            "No queues yet",
            "A queue is declared when a worker starts, or with the first call that is sent to it.",
        );
    }
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th scope="col" { "Queue" }
                        th scope="col" .wide { "Last 10 minutes" }
                        th scope="col" .number { "Ready" }
                        th scope="col" .number { "Running" }
                        th scope="col" .number.wide { "Delayed" }
                        th scope="col" .number { "Dead" }
                        th scope="col" .number.wide { "Oldest" }
                        th scope="col" .number { "Workers" }
                    }
                }
                tbody { @for queue in &snapshot.queues { (row(state, queue)) } }
            }
        }
    }
}

fn row(state: &State, queue: &QueueView) -> Markup {
    let label = format!("length of {} over the last minutes", queue.name);
    html! {
        tr {
            th scope="row" { (queue_link(&queue.name)) }
            td.wide { (sparkline(&state.watcher.trend(&queue.name), &label)) }
            td.number { (count(Some(queue.ready))) }
            td.number { (count(queue.running)) }
            td.number.wide { (count(queue.delayed)) }
            td.number {
                @match queue.dead {
                    Some(dead) if dead > 0 => a.bad href="/dead" { (grouped(dead)) },
                    dead => (count(dead)),
                }
            }
            td.number.wide { (maybe_span(queue.oldest_seconds)) }
            td.number {
                @if queue.pause.is_some() {
                    (state_of("paused"))
                } @else if queue.consumers == 0 && queue.ready > 0 && !queue.is_dead_letter_queue {
                    span.state.bad { "none" }
                } @else {
                    (count(Some(queue.consumers)))
                }
            }
        }
    }
}
