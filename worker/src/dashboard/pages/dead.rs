//! Dead letters of all queues, grouped by task and error.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State as Shared};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::layout::{Liveness, Section, empty, grouped, heading, page};
use super::letters;
use super::parts::{ago, button, confirmed, queue_link};
use crate::admin::dead::survey::{self, Group, Survey};
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;
use crate::dashboard::snapshot::{DEAD, QueueView};
use crate::dashboard::state::State;
use crate::show::counted;

/// How long the page may take to look through all dead-letter queues together.
const PAGE: Duration = Duration::from_secs(6);
/// The least time for each queue.
const SHORTEST: Duration = Duration::from_millis(200);
/// How many letters of a group are shown.
const SHOWN: u32 = 50;

/// `GET /dead`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let dead = |queue: &QueueView| match queue.dead {
        Some(dead) => (dead > 0).then(|| queue.name.clone()),
        None => (queue.is_dead_letter_queue && queue.ready > 0)
            .then(|| queue.name.trim_end_matches(DEAD).to_owned()),
    };
    let names: Vec<String> = snapshot.queues.iter().filter_map(dead).collect();
    let time = (PAGE / u32::try_from(names.len().max(1)).unwrap_or(u32::MAX)).max(SHORTEST);
    let mut parts = Vec::new();
    for name in names {
        parts.push((
            state.asking(survey::survey(&state.app, &name, time.min(survey::TIME_LIMIT))).await,
            name,
        ));
    }
    let all = html! { a.button href="/dead" { "Look again" } };
    let content = html! {
        (heading("Dead letters", &html! { "Messages that will not be run again, grouped by task and error." }, &all))
        @if parts.is_empty() { (empty("No dead letters", "Calls that fail permanently appear here with the reason.")) }
        @for (found, name) in &parts {
            section {
                h2 { (queue_link(name)) }
                @match found {
                    Ok(found) => (groups(&viewer, name, found)),
                    Err(failure) => p.note { (failure.clone().into_parts().1) },
                }
            }
        }
    };
    page(&state, &viewer, Section::Dead, "Dead letters", Liveness::Still, &content)
}

fn groups(viewer: &Viewer, queue: &str, found: &Survey) -> Markup {
    html! {
        @if found.unseen > 0 {
            p.note {
                "Grouped are the oldest " (grouped(found.seen)) "; " (grouped(found.unseen))
                " more wait behind them. Replaying and dropping a group reaches all of its letters."
            }
        }
        ul.groups {
            @for group in &found.groups { (card(viewer, queue, group, found.unseen > 0)) }
        }
    }
}

fn card(viewer: &Viewer, queue: &str, group: &Group, has_more: bool) -> Markup {
    let Group { task, kind, count, newest, .. } = group;
    let fields = [("queue", queue), ("task", task.as_str()), ("kind", kind.as_str())];
    let drop = match has_more {
        false => format!("Drop {} permanently?", counted(*count, "dead letter")),
        true => format!(
            "Drop all dead letters of this group permanently, {count} among the oldest and those behind them?"
        ),
    };
    let link = format!(
        "/dead/group?queue={}&task={}&kind={}",
        path::encoded(queue),
        path::encoded(task),
        path::encoded(kind)
    );
    html! {
        li {
            div.about {
                span.count.bad { (grouped(*count)) }
                div {
                    p.strong { a.code href=(link) { @if task.is_empty() { "(no task)" } @else { (task) } } }
                    p.why { @if kind.is_empty() { "no reason noted" } @else { (kind) } }
                    @if let Some(newest) = newest { p.note { "last " (ago(*newest)) } }
                }
            }
            div.actions {
                (button(viewer, "replay-dead", &fields, "Replay"))
                (confirmed(viewer, "drop-dead", &fields, "Drop", &drop, &html! {}))
            }
        }
    }
}

/// The query parameters that name a group.
#[derive(Debug, Deserialize)]
pub(crate) struct LetterFilter {
    queue: String,
    task: String,
    kind: String,
}

/// `GET /dead/group`
pub(crate) async fn group(
    Shared(state): Shared<Arc<State>>,
    viewer: Viewer,
    Query(which): Query<LetterFilter>,
) -> Response {
    let LetterFilter { queue, task, kind } = which;
    let fields = [("queue", queue.as_str()), ("task", task.as_str()), ("kind", kind.as_str())];
    let found = state.asking(survey::letters(&state.app, &queue, Some(&task), Some(&kind), SHOWN)).await;
    let actions = html! {
        (button(&viewer, "replay-dead", &fields, "Replay all"))
        (confirmed(&viewer, "drop-dead", &fields, "Drop all", "Drop all of this group permanently?", &html! {}))
        a.button href="/dead" { "Back" }
    };
    let title = if task.is_empty() { "(no task)" } else { &task };
    let content = html! {
        (heading(title, &html! { "Dead letters of " (queue_link(&queue)) ": " (kind) }, &actions))
        @match found {
            Ok(messages) if messages.is_empty() => (empty("None among the oldest", "They were replayed or dropped, or many other dead letters are older.")),
            Ok(messages) => {
                @if messages.len() as u32 == SHOWN { p.note { "The oldest " (SHOWN) "." } }
                (letters::list(&state, &messages))
            },
            Err(failure) => (empty("Cannot look", &failure.into_parts().1)),
        }
    };
    page(&state, &viewer, Section::Dead, title, Liveness::Still, &content).into_response()
}
