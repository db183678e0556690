//! Messages of a queue or a dead-letter queue with all their details.

use maud::{Markup, html};
use serde_json::Value;

use super::parts::task_link;
use crate::admin::dead::letter::Letter;
use crate::dashboard::privacy::HIDDEN;
use crate::dashboard::state::State;
use crate::message::Message;
use crate::show::one_line;

/// How many characters of an argument are shown.
const LONGEST: usize = 20_000;

/// Each message as a section that can be opened.
pub(crate) fn list(state: &State, messages: &[Message]) -> Markup {
    html! { @for message in messages { (one(state, message)) } }
}

fn one(state: &State, message: &Message) -> Markup {
    let letter = Letter::of(message);
    let task = letter.task().unwrap_or("(no task)").to_owned();
    let is_hidden = state.privacy.hides(&task);
    let details = serde_json::to_value(letter.details()).unwrap_or_default();
    html! {
        details.message {
            summary {
                span.strong { (task) } " "
                @if let Some(id) = letter.id() { (task_link(id)) }
                @if let Some(why) = letter.why() { span.why { (one_line(&why, 120)) } }
            }
            dl.facts.long {
                @for (name, key) in [("Arguments", "args"), ("Keyword arguments", "kwargs"), ("Body", "body")] {
                    @if !details[key].is_null() {
                        div { dt { (name) } dd { @if is_hidden { (hidden()) } @else { (json(&details[key])) } } }
                    }
                }
                @if let Some(attempts) = details["attempts"].as_array().filter(|attempts| !attempts.is_empty()) {
                    div {
                        dt { "Attempts" }
                        dd { ol { @for attempt in attempts {
                            li { (text(&attempt["at"])) " on " span.code { (text(&attempt["worker"])) } pre { (text(&attempt["error"])) } }
                        } } }
                    }
                }
                div { dt { "Headers" } dd { (headers(&details["headers"], is_hidden)) } }
            }
        }
    }
}

/// A table of headers. Some repeat the arguments.
pub(crate) fn headers(headers: &Value, is_hidden: bool) -> Markup {
    let Some(headers) = headers.as_object() else { return html! { "–" } };
    html! {
        div.scroll { table.headers { tbody {
            @for (name, value) in headers {
                tr {
                    th scope="row" .code { (name) }
                    td.code {
                        @if is_hidden && matches!(name.as_str(), "argsrepr" | "kwargsrepr") { (hidden()) }
                        @else { (one_line(&text(value), 500)) }
                    }
                }
            }
        } } }
    }
}

/// Shown in place of hidden arguments.
pub(crate) fn hidden() -> Markup {
    html! { span.zero { (HIDDEN) } }
}

/// A value as readable JSON, cut where it is too long for a page.
pub(crate) fn json(value: &Value) -> Markup {
    let text = serde_json::to_string_pretty(value).unwrap_or_default();
    cut(&text)
}

/// A text in its own lines, cut where it is too long for a page.
pub(crate) fn cut(text: &str) -> Markup {
    match text.char_indices().nth(LONGEST) {
        None => html! { pre { (text) } },
        Some((at, _)) => html! {
            pre { (&text[..at]) "…" }
            p.note { "The first " (LONGEST) " characters of " (text.len()) " bytes." }
        },
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}
