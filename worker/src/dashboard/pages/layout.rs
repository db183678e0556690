//! The layout shared by all pages.

use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;

use crate::dashboard::guard::{Via, Viewer};
use crate::dashboard::login::session::Notice;
use crate::dashboard::state::State;

/// A page of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Tasks,
    Queues,
    Workers,
    Schedules,
    Dead,
    Broker,
    Activity,
}

impl Section {
    const ALL: [Self; 8] = [
        Self::Overview,
        Self::Tasks,
        Self::Queues,
        Self::Workers,
        Self::Schedules,
        Self::Dead,
        Self::Broker,
        Self::Activity,
    ];

    fn path(self) -> &'static str {
        match self {
            Self::Overview => "/",
            Self::Tasks => "/tasks",
            Self::Queues => "/queues",
            Self::Workers => "/workers",
            Self::Schedules => "/schedules",
            Self::Dead => "/dead",
            Self::Broker => "/broker",
            Self::Activity => "/activity",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Tasks => "Tasks",
            Self::Queues => "Queues",
            Self::Workers => "Workers",
            Self::Schedules => "Schedules",
            Self::Dead => "Dead letters",
            Self::Broker => "Broker",
            Self::Activity => "Activity",
        }
    }
}

/// Whether a page changes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveness {
    /// Its parts marked with `data-live` are replaced when there is a new snapshot.
    Live,
    /// It stays as it was loaded.
    Still,
}

/// A page with the navigation around it.
pub(crate) fn page(
    state: &State,
    viewer: &Viewer,
    section: Section,
    title: &str,
    liveness: Liveness,
    content: &Markup,
) -> Markup {
    let notice = match &viewer.via {
        // A notice is for the page loaded after the action, not for updates of one that is still open.
        Via::Session { key, .. } if !viewer.is_update => state.sessions.take_notice(key),
        _ => None,
    };
    let snapshot = state.watcher.latest();
    let dead: u64 = snapshot.queues.iter().filter_map(|queue| queue.dead).sum();
    let live = liveness == Liveness::Live;
    document(
        title,
        live,
        &html! {
            a.skip href="#content" { "Skip to content" }
            div.frame {
                header.side {
                    a.brand href="/" { (mark()) span { "mq-worker" } }
                    nav aria-label="Main" {
                        ul {
                            @for one in Section::ALL {
                                li {
                                    a href=(one.path()) aria-current=[(one == section).then_some("page")] {
                                        (one.title())
                                        @if one == Section::Dead && dead > 0 {
                                            span.count data-live id="nav-dead" { (short(dead)) }
                                        }
                                    }
                                }
                            }
                        }
                    }
                    div.who {
                        div #connection .connection data-live {
                            @if snapshot.at == DateTime::<Utc>::default() {
                                span.state.idle { (snapshot.broker.name) " not reached yet" }
                            } @else if snapshot.broker.error.is_none() {
                                span.state.good { (snapshot.broker.name) " connected" }
                            } @else {
                                span.state.bad { (snapshot.broker.name) " away" }
                            }
                        }
                        @if !state.access.is_open() {
                            form method="post" action="/logout" {
                                (csrf(viewer))
                                span.user title={ "role: " (viewer.role.as_str()) } { (viewer.name) }
                                button.link type="submit" { "Log out" }
                            }
                        }
                    }
                }
                main #content tabindex="-1" {
                    @if let Some(notice) = notice { (render_notice(&notice)) }
                    (content)
                }
            }
        },
    )
}

/// A page without navigation.
pub(crate) fn bare(title: &str, content: &Markup) -> Markup {
    document(title, false, &html! { main.bare #content { (content) } })
}

fn document(title: &str, live: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · mq-worker" }
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/page.js" defer {}
                @if live { noscript { meta http-equiv="refresh" content="10"; } }
            }
            body data-follow=[live.then_some("")] { (body) }
        }
    }
}

fn render_notice(notice: &Notice) -> Markup {
    html! {
        @match notice {
            Notice::Done(text) => p.notice.good role="status" { (text) },
            Notice::StillRunning(text) => p.notice role="status" { (text) },
            Notice::Failed(text) => p.notice.bad role="alert" { (text) },
        }
    }
}

/// The hidden field with the CSRF token.
pub(crate) fn csrf(viewer: &Viewer) -> Markup {
    html! { input type="hidden" name="csrf" value=(viewer.csrf()); }
}

/// A form with nothing but the CSRF token.
#[derive(Debug, Deserialize)]
pub(crate) struct CsrfForm {
    pub(crate) csrf: Option<String>,
}

/// The head of a page: its title, a line below it, and content on the right.
pub(crate) fn heading(title: &str, below: &Markup, right: &Markup) -> Markup {
    html! {
        div.heading {
            div { h1 { (title) } @if !below.0.is_empty() { p.below { (below) } } }
            div.actions #actions data-live { (right) }
        }
    }
}

/// Shown in place of an empty list: why it is empty, and what to do.
pub(crate) fn empty(title: &str, hint: &str) -> Markup {
    html! { div.empty { p.strong { (title) } p { (hint) } } }
}

/// A number in a few characters.
pub(crate) fn short(number: u64) -> String {
    match number {
        0..10_000 => grouped(number),
        10_000..1_000_000 => format!("{}k", number / 1000),
        _ => format!("{:.1}M", number as f64 / 1e6),
    }
}

/// A number with a thin space between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn mark() -> Markup {
    html! {
        svg.mark viewBox="0 0 24 24" aria-hidden="true" {
            rect x="2" y="4" width="20" height="4" rx="2" {}
            rect x="2" y="10" width="14" height="4" rx="2" {}
            rect x="2" y="16" width="8" height="4" rx="2" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!([short(999), short(12_345), short(2_500_000)], ["999", "12k", "2.5M"]);
    }
}
