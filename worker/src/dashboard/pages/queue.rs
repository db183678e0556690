//! One queue: its length, bindings, waiting messages and actions.

use std::sync::Arc;

use axum::extract::{Path, State as Shared};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use super::chart::sparkline;
use super::layout::{CsrfForm, Liveness, Section, csrf, empty, grouped, heading, page};
use super::parts::{ago, button, confirmed, count, for_minutes, maybe_span, state as state_of};
use super::{letters, rates};
use crate::admin::inventory;
use crate::admin::peek;
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;
use crate::dashboard::snapshot::QueueView;
use crate::dashboard::state::State;
use crate::routing::Binding;
use crate::show::counted;

/// How many messages are shown.
const SHOWN: u32 = 20;

/// `GET /queues/{name}`
pub(crate) async fn show(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Path(name): Path<String>,
) -> Response {
    let snapshot = state.watcher.fresh().await;
    // The snapshot lists a dead-letter queue with its own queue, so it may have to be looked up.
    let Some(queue) = find(&state, &name).await else {
        let hint = "It was deleted, or its name is mistyped.";
        let content = html! { (heading("No such queue", &html! {}, &html! {})) (empty(&name, hint)) };
        let page = page(&state, &viewer, Section::Queues, &name, Liveness::Still, &content);
        return (StatusCode::NOT_FOUND, page).into_response();
    };
    let bindings = state.asking(inventory::bindings(&state.app, None, Some(&name))).await;
    let charts = rates::charts(&state, Some(&name)).await;
    let content = html! {
        (heading(&name, &html! { "Queue" }, &actions(&viewer, &queue)))
        dl #facts .facts data-live {
            div { dt { "Ready" } dd { (count(Some(queue.ready))) } }
            div { dt { "Running" } dd { (count(queue.running)) } }
            div { dt { "Delayed" } dd { (count(queue.delayed)) } }
            div { dt { "Dead letters" } dd { (count(queue.dead)) } }
            div { dt { "Oldest" } dd { (maybe_span(queue.oldest_seconds)) } }
            div { dt { "Workers" } dd { (count(Some(queue.consumers))) } }
            @if let Some(pause) = &queue.pause {
                div { dt { "Paused" } dd { (state_of("paused")) @if let Some(until) = pause.until { " ends " (ago(until)) } } }
            }
            div.trend { dt { "Last 10 minutes" } dd { (sparkline(&state.watcher.trend(&name), "length of this queue")) } }
        }
        section #rates data-live aria-label="Rates" { (charts) }
        section aria-labelledby="waiting" {
            h2 #waiting { "What waits" }
            (waiting(&viewer, &queue, PeekEffect::at(&state).await))
        }
        section aria-labelledby="consumers" {
            h2 #consumers { "Workers" }
            @if queue.workers.is_empty() {
                p.note { "No worker that replies consumes from this queue." }
            } @else {
                ul.plain { @for worker in &queue.workers { li { a.code href=(path::worker(worker)) { (worker) } } } }
            }
        }
        section aria-labelledby="bindings" {
            h2 #bindings { "Bindings" }
            @match bindings {
                Ok(found) => {
                    (self::bindings(found.found.iter().filter(|binding| binding.queue == name), "None: it is reached through the default exchange, by its name."))
                    @if let Some(gap) = found.gap { p.note { (gap.text("bindings", snapshot.broker.name)) } }
                },
                Err(failure) => p.note { (failure.into_parts().1) },
            }
        }
    };
    page(&state, &viewer, Section::Queues, &name, Liveness::Live, &content).into_response()
}

/// Finds a queue, including a dead-letter queue that is listed with its own queue.
async fn find(state: &State, name: &str) -> Option<QueueView> {
    if let Some(queue) = state.watcher.latest().queue(name) {
        return Some(queue.clone());
    }
    let (_, info) = state.asking(crate::admin::queue(&state.app, name)).await.ok()?;
    Some(QueueView {
        name: info.name,
        ready: info.ready,
        running: info.running,
        delayed: info.delayed,
        consumers: info.consumers,
        is_dead_letter_queue: name.ends_with(crate::dashboard::snapshot::DEAD),
        ..QueueView::default()
    })
}

fn actions(viewer: &Viewer, queue: &QueueView) -> Markup {
    let name = queue.name.as_str();
    let fields = [("queue", name)];
    let waiting = counted(queue.ready, "message");
    html! {
        @match &queue.pause {
            Some(_) => (button(viewer, "resume", &fields, "Resume")),
            None => (confirmed(viewer, "pause", &fields, "Pause", &format!("Workers stop taking messages from {name}; running tasks continue."), &for_minutes())),
        }
        (confirmed(viewer, "move-messages", &fields, "Move", &format!("Move the messages that wait in {name} to another queue."), &html! {
            label { "To queue" input name="to" required autocomplete="off"; }
            label { "At most" input name="limit" type="number" min="1" placeholder="all"; }
        }))
        (confirmed(viewer, "purge-queue", &fields, "Purge", &format!("Drop {waiting} that wait in {name} permanently?"), &html! {}))
        (confirmed(viewer, "delete-queue", &fields, "Delete", &format!("Delete {name} with {waiting} permanently?"), &html! {
            label.check { input type="checkbox" name="force" value="true"; "even if workers consume from it" }
        }))
    }
}

/// How looking at messages affects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PeekEffect {
    /// Not at all: every viewer may look.
    Untouched,
    /// They are taken for a moment and marked as redelivered.
    Taken,
}

impl PeekEffect {
    /// Returns how the broker behaves; assumes [`Taken`](Self::Taken) while it cannot be reached.
    async fn at(state: &State) -> Self {
        let asked = state.asking(async { Ok(state.app.broker().await?.capabilities().peeks) });
        if asked.await.unwrap_or(false) { Self::Untouched } else { Self::Taken }
    }

    fn is_for(self, viewer: &Viewer) -> bool {
        self == Self::Untouched || viewer.may_act()
    }
}

fn waiting(viewer: &Viewer, queue: &QueueView, looking: PeekEffect) -> Markup {
    if queue.ready == 0 {
        return html! { p.note { "Nothing waits in this queue." } };
    }
    let calls = format!("/tasks?queue={}&state=PENDING,RECEIVED,DELAYED", path::encoded(&queue.name));
    html! {
        @if looking.is_for(viewer) {
            form method="post" action={ (path::queue(&queue.name)) "/peek" } {
                (csrf(viewer))
                button type="submit" { "Show the first " (queue.ready.min(SHOWN.into())) }
            }
        } @else {
            p.note { (grouped(queue.ready)) " ready. Only users with the role act can look at them, since they are taken for a moment." }
        }
        @if looking == PeekEffect::Taken {
            p.note {
                "RabbitMQ shows a message only by delivering it: these go back to their places, marked as redelivered. A worker then "
                "counts one possible crash for each, and the 20th delivery dead-letters a message. "
                a href=(calls) { "Waiting calls according to their events" } ", can be read without touching them."
            }
        }
    }
}

/// `POST /queues/{name}/peek`
pub(crate) async fn peek(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Path(name): Path<String>,
    form: axum::Form<CsrfForm>,
) -> Response {
    if !viewer.is_own_form(form.csrf.as_deref()) || !PeekEffect::at(&state).await.is_for(&viewer) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let content = match state.asking(peek::peek(&state.app, &name, SHOWN)).await {
        Ok(messages) => html! {
            (heading(&name, &html! { "The first messages, as they wait" }, &html! { a.button href=(path::queue(&name)) { "Back" } }))
            @if messages.is_empty() { (empty("Nothing waits", "Workers were faster.")) }
            (letters::list(&state, &messages))
        },
        Err(failure) => html! {
            (heading(&name, &html! {}, &html! { a.button href=(path::queue(&name)) { "Back" } }))
            (empty("Cannot look", &failure.into_parts().1))
        },
    };
    page(&state, &viewer, Section::Queues, &name, Liveness::Still, &content).into_response()
}

/// A table of bindings, or the text `none` if there are none.
pub(crate) fn bindings<'a>(bindings: impl Iterator<Item = &'a Binding>, none: &str) -> Markup {
    let mut bindings: Vec<&Binding> = bindings.collect();
    bindings.sort();
    if bindings.is_empty() {
        return html! { p.note { (none) } };
    }
    html! {
        div.scroll {
            table {
                thead { tr { th scope="col" { "Exchange" } th scope="col" { "Routing key" } th scope="col" { "Queue" } } }
                tbody {
                    @for binding in bindings {
                        tr {
                            td.code { (binding.exchange) }
                            td.code { @if binding.routing_key.is_empty() { "–" } @else { (binding.routing_key) } }
                            td { (super::parts::queue_link(&binding.queue)) }
                        }
                    }
                }
            }
        }
    }
}
