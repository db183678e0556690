//! Small parts of pages: states, ages, codes, forms.

use std::time::Duration;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::layout::csrf;
use crate::dashboard::guard::Viewer;
use crate::dashboard::path;

/// A time span in its largest unit, or its two largest.
pub(crate) fn span(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    if seconds < 0.001 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = Duration::from_secs(seconds as u64);
    let text = humantime::format_duration(whole).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A time span, or a dash.
pub(crate) fn maybe_span(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".into(), span)
}

/// A time relative to now, with the exact time in its title.
pub(crate) fn ago(at: DateTime<Utc>) -> Markup {
    let seconds = (Utc::now() - at).as_seconds_f64();
    let text = if seconds < 0.0 {
        format!("in {}", span(-seconds))
    } else if seconds < 1.0 {
        "just now".into()
    } else {
        format!("{} ago", span(seconds.max(1.0).floor()).replace(".0 s", " s"))
    };
    html! { time datetime=(at.to_rfc3339()) title=(exact(at)) { (text) } }
}

/// A time in full.
pub(crate) fn exact(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}

/// Bytes, in a unit that fits.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A count, or a dash if the broker does not report it.
pub(crate) fn count(number: Option<u64>) -> Markup {
    html! {
        @match number {
            Some(0) => span.zero { "0" },
            Some(number) => (super::layout::grouped(number)),
            None => span.zero title="not reported by this broker" { "–" },
        }
    }
}

/// A state as colour and word.
pub(crate) fn state(word: &str) -> Markup {
    let word = word.to_ascii_lowercase().replace('_', "-");
    let tone = match word.as_str() {
        "success" | "working" | "connected" => "good",
        "started" | "running" => "busy",
        "retry" | "delayed" | "stopping" | "paused" | "revoked" => "warn",
        "failure" | "failed" | "dead-lettered" | "blocked" | "rejected" => "bad",
        _ => "idle",
    };
    html! { span class={ "state " (tone) } { (word) } }
}

/// A link to a queue.
pub(crate) fn queue_link(name: &str) -> Markup {
    html! { a.code href=(path::queue(name)) { (name) } }
}

/// A link to a call: its id is long, so a part of it is shown.
pub(crate) fn task_link(id: &str) -> Markup {
    html! { a.code.id href=(path::task(id)) title=(id) { (shortened(id)) } }
}

fn shortened(id: &str) -> String {
    if id.chars().count() <= 14 {
        return id.to_owned();
    }
    let start: String = id.chars().take(8).collect();
    let end: Vec<char> = id.chars().rev().take(4).collect();
    format!("{start}…{}", end.into_iter().rev().collect::<String>())
}

/// A form with one button, for actions that need no confirmation.
pub(crate) fn button(viewer: &Viewer, action: &str, fields: &[(&str, &str)], label: &str) -> Markup {
    html! {
        @if viewer.may_act() {
            form.inline method="post" action="/act" {
                (hidden(viewer, action, fields))
                button type="submit" { (label) }
            }
        }
    }
}

/// A button that first asks for confirmation, for actions that cannot be undone. It works without scripts.
pub(crate) fn confirmed(
    viewer: &Viewer,
    action: &str,
    fields: &[(&str, &str)],
    label: &str,
    question: &str,
    more: &Markup,
) -> Markup {
    html! {
        @if viewer.may_act() {
            details.ask {
                summary.button { (label) "…" }
                form.panel method="post" action="/act" {
                    (hidden(viewer, action, fields))
                    p { (question) }
                    (more)
                    button.danger type="submit" { (label) }
                }
            }
        }
    }
}

/// The input for the length of a pause.
pub(crate) fn for_minutes() -> Markup {
    html! { label { "For minutes" input name="minutes" type="number" min="1" placeholder="until it is resumed"; } }
}

/// The hidden fields of a form.
pub(crate) fn hidden(viewer: &Viewer, action: &str, fields: &[(&str, &str)]) -> Markup {
    html! {
        (csrf(viewer))
        input type="hidden" name="action" value=(action);
        @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_short() {
        for (seconds, expected) in [
            (0.0000004, "0 µs"),
            (0.0123, "12 ms"),
            (1.25, "1.2 s"),
            (61.0, "1m 1s"),
            (90_061.0, "1day 1h"),
            (-1.0, "–"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(span(seconds), expected);
        }
        assert_eq!(
            [bytes(10), bytes(2048), bytes(5 << 20), bytes(3 << 30)],
            ["10 B", "2 KiB", "5 MiB", "3.0 GiB"]
        );
    }

    #[test]
    fn ids_are_shortened_in_the_middle() {
        assert_eq!(shortened("019321f0-8f3a-7c1e-b0c4-5f1e6a7b8c9d"), "019321f0…8c9d");
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened("ÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜÄÖÜ").chars().count(), 13);
    }

    #[test]
    fn what_others_wrote_is_text() {
        let link = task_link("<script>alert(1)</script>").0;
        assert!(!link.contains("<script>") && link.contains("&lt;script"), "{link}");
    }
}
