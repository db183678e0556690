//! The first page: what is wrong right now, then rates, queues and workers.

use std::sync::Arc;

use axum::extract::State as Shared;
use maud::{Markup, html};

use super::layout::{Liveness, Section, grouped, heading, page};
use super::parts::{ago, button};
use super::{queues, rates, workers};
use crate::app::{Pausable, Pause};
use crate::dashboard::guard::Viewer;
use crate::dashboard::problem::{Problem, Severity};
use crate::dashboard::snapshot::Snapshot;
use crate::dashboard::state::State;

/// `GET /`
pub(crate) async fn show(Shared(state): Shared<Arc<State>>, viewer: Viewer) -> Markup {
    let snapshot = state.watcher.fresh().await;
    let charts = rates::charts(&state, None).await;
    let content = html! {
        (heading("Overview", &html! { (snapshot.broker.name) " · " span.code { (snapshot.broker.url) } }, &html! {}))
        section #problems data-live aria-label="What is wrong right now" { (problems(&snapshot.problems)) }
        @if !snapshot.paused.is_empty() {
            ul.paused #paused data-live aria-label="Paused" {
                @for pause in &snapshot.paused { li.with-action { (paused(&viewer, pause)) } }
            }
        }
        section #figures .figures data-live aria-label="Figures" { (figures(&snapshot)) }
        section #rates data-live aria-label="Rates" { (charts) }
        section aria-labelledby="queues-title" {
            h2 #queues-title { a href="/queues" { "Queues" } }
            div #queues data-live { (queues::table(&state, &snapshot)) }
        }
        section aria-labelledby="workers-title" {
            h2 #workers-title { a href="/workers" { "Workers" } }
            div #workers data-live { (workers::table(&snapshot)) }
        }
    };
    page(&state, &viewer, Section::Overview, "Overview", Liveness::Live, &content)
}

fn paused(viewer: &Viewer, pause: &Pause) -> Markup {
    let field = match &pause.what {
        Pausable::Queue(queue) => ("queue", queue.as_str()),
        Pausable::Task(task) => ("task", task.as_str()),
    };
    html! {
        span { span.state.warn { "paused" } " " (field.0) " " span.code { (field.1) } @if let Some(until) = pause.until { ", ends " (ago(until)) } }
        (button(viewer, "resume", &[field, ("back", "/")], "Resume"))
    }
}

fn problems(problems: &[Problem]) -> Markup {
    html! {
        @if problems.is_empty() {
            p.calm { span.state.good { "all well" } " Every queue with messages has a worker, and nothing is stuck." }
        } @else {
            ul.problems {
                @for problem in problems {
                    li class=(match problem.severity { Severity::Error => "bad", Severity::Warning => "warn" }) {
                        p.strong {
                            @match &problem.link {
                                Some(link) => a href=(link) { (quoted(&problem.title)) },
                                None => (quoted(&problem.title)),
                            }
                        }
                        p { (problem.hint) }
                    }
                }
            }
        }
    }
}

/// Names between backquotes are set as code.
fn quoted(text: &str) -> Markup {
    html! {
        @for (index, part) in text.split('`').enumerate() {
            @if index % 2 == 1 { span.code { (part) } } @else { (part) }
        }
    }
}

fn figures(snapshot: &Snapshot) -> Markup {
    let sum =
        |of: fn(&crate::dashboard::snapshot::QueueView) -> u64| snapshot.queues.iter().map(of).sum::<u64>();
    let waiting = sum(|queue| if queue.is_dead_letter_queue { 0 } else { queue.ready });
    let delayed = sum(|queue| queue.delayed.unwrap_or_default()) + snapshot.delayed.unwrap_or_default();
    let dead = sum(|queue| queue.dead.unwrap_or(if queue.is_dead_letter_queue { queue.ready } else { 0 }));
    let running: u64 = snapshot.workers.iter().filter_map(|worker| worker.info.running).sum();
    let slots: u64 = snapshot.workers.iter().filter_map(|worker| worker.info.concurrency).sum();
    html! {
        (figure("Waiting", &grouped(waiting), "ready to run", "/queues"))
        (figure("Running", &grouped(running), &format!("of {} slots", grouped(slots)), "/workers"))
        (figure("Delayed", &grouped(delayed), "wait for their time", "/queues"))
        (figure("Dead letters", &grouped(dead), if dead == 0 { "none" } else { "wait for you" }, "/dead"))
    }
}

fn figure(name: &str, number: &str, below: &str, link: &str) -> Markup {
    html! {
        a.figure href=(link) {
            span.name { (name) }
            span.number { (number) }
            span.below { (below) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_title_are_text() {
        let shown = quoted("no worker consumes from `<b>`").0;
        assert_eq!(shown, "no worker consumes from <span class=\"code\">&lt;b&gt;</span>");
    }
}
