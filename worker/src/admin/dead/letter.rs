//! One dead letter, as people and machines read it.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use crate::message::headers::names;
use crate::message::{Attempt, Message, history, normalize};
use crate::show::one_line;

/// A compressed body is unpacked for display up to this many bytes.
const LARGEST: usize = 16 * 1024 * 1024;

/// A dead letter. A message of Celery's older protocol is converted to the newer one.
pub(crate) struct Letter<'a> {
    message: Cow<'a, Message>,
    /// Why it cannot be read, if it cannot.
    unreadable: Option<String>,
}

impl<'a> Letter<'a> {
    pub(crate) fn of(message: &'a Message) -> Self {
        if message.is_task() && message.headers.get("compression").is_none() {
            return Self { message: Cow::Borrowed(message), unreadable: None };
        }
        let mut normal = message.clone();
        match normalize(&mut normal, LARGEST) {
            Ok(()) => Self { message: Cow::Owned(normal), unreadable: None },
            Err(problem) => Self { message: Cow::Borrowed(message), unreadable: Some(problem) },
        }
    }

    pub(crate) fn id(&self) -> Option<&str> {
        self.message.id()
    }

    pub(crate) fn task(&self) -> Option<&str> {
        self.message.headers.task()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.get_str(name)
    }

    /// True if it is here because it had expired.
    pub(crate) fn has_expired(&self) -> bool {
        self.header(names::DEAD_REASON) == Some("expired")
    }

    /// Why it is here: the reason and the last error.
    pub(crate) fn why(&self) -> Option<String> {
        match (self.header(names::DEAD_REASON), self.header(names::DEAD_ERROR)) {
            (Some(reason), Some(error)) => Some(format!("{reason}: {error}")),
            (Some(one), None) | (None, Some(one)) => Some(one.to_owned()),
            (None, None) => None,
        }
    }

    /// A row of the table: id, task, time, tries and reason.
    pub(crate) fn row(&self) -> Vec<String> {
        let why = self.why().unwrap_or_else(|| "-".into());
        let at = self.header(names::DEAD_AT).unwrap_or("-");
        // Seconds are enough for a table.
        let at = at.split('.').next().unwrap_or(at).replace('T', " ");
        vec![
            one_line(self.id().unwrap_or("-"), 40),
            one_line(self.task().unwrap_or("-"), 40),
            at,
            (u64::from(self.message.headers.retries()) + 1).to_string(),
            one_line(&why, 80),
        ]
    }

    /// The output of `list --json`.
    pub(crate) fn summary(&self) -> Value {
        json!({
            "id": self.id(),
            "task": self.task(),
            "queue": self.header(names::DEAD_QUEUE),
            "reason": self.header(names::DEAD_REASON),
            "error": self.header(names::DEAD_ERROR),
            "died_at": self.header(names::DEAD_AT),
            "retries": self.message.headers.retries(),
            "crashes": self.message.headers.crashes(),
            "size": self.message.body.len(),
        })
    }

    /// The output of `show --json`.
    pub(crate) fn details(&self) -> Details {
        let mut value = self.summary();
        let headers: Map<String, Value> =
            self.message.headers.iter().map(|(name, value)| (name.to_owned(), value.clone())).collect();
        let (args, kwargs, body) = self.parts();
        let properties = &self.message.properties;
        let object = value.as_object_mut().expect("a summary is an object");
        object.insert("content_type".into(), properties.content_type.clone().into());
        object.insert("reply_to".into(), properties.reply_to.clone().into());
        object.insert("priority".into(), properties.priority.into());
        object.insert("attempts".into(), json!(history::read(&self.message.headers)));
        object.insert("headers".into(), Value::Object(headers));
        Details { args: args.to_owned(), kwargs: kwargs.to_owned(), body: body.into_owned(), rest: value }
    }

    /// Positional and keyword arguments, or else the body as it is.
    pub(crate) fn parts(&self) -> (&RawValue, &RawValue, Cow<'_, RawValue>) {
        let body = &self.message.body;
        if self.task().is_some()
            && self.unreadable.is_none()
            && let Ok((args, kwargs, _)) = serde_json::from_slice::<(&RawValue, &RawValue, IgnoredAny)>(body)
        {
            return (args, kwargs, Cow::Borrowed(RawValue::NULL));
        }
        let body = serde_json::from_slice(body).map(Cow::Borrowed).unwrap_or_else(|_| {
            let text = to_raw_value(&String::from_utf8_lossy(body));
            Cow::Owned(text.expect("a text can be written"))
        });
        (RawValue::NULL, RawValue::NULL, body)
    }

    /// The output of `show` for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}\n", self.id().unwrap_or("(no id)"));
        let mut line = |name: &str, value: &str| text += &format!("  {name:<13}{}\n", printable(value));
        line("task", self.task().unwrap_or("-"));
        for (name, header) in [
            ("reason", names::DEAD_REASON),
            ("error", names::DEAD_ERROR),
            ("from queue", names::DEAD_QUEUE),
            ("died", names::DEAD_AT),
        ] {
            if let Some(value) = self.header(header) {
                line(name, value);
            }
        }
        if let Some(problem) = &self.unreadable {
            line("unreadable", problem);
        }
        line("tries", &(u64::from(self.message.headers.retries()) + 1).to_string());
        let (args, kwargs, body) = self.parts();
        for (name, value) in [("args", args), ("kwargs", kwargs), ("body", &*body)] {
            if value.get() != "null" {
                line(name, value.get());
            }
        }
        for Attempt { attempt, at, error, worker } in history::read(&self.message.headers) {
            line(&format!("attempt {attempt}"), &format!("{at} on {worker}: {}", one_line(&error, 200)));
        }
        let shown = ["task", "id", "retries", names::HISTORY];
        for (name, value) in self.message.headers.iter() {
            if !shown.contains(&name) && !name.starts_with("mq-dead-") {
                line(&format!("{name} "), &value.to_string());
            }
        }
        text
    }
}

/// Everything known about a letter. The arguments remain the text that was sent: a number in them may have more digits
/// than a `Value` keeps.
#[derive(Serialize)]
pub(crate) struct Details {
    args: Box<RawValue>,
    kwargs: Box<RawValue>,
    body: Box<RawValue>,
    #[serde(flatten)]
    rest: Value,
}

/// Replaces control characters: the text of a message must not control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn dead() -> Message {
        let mut headers = Headers::for_task("send_email", "id-1");
        headers.set("retries", 3);
        headers.set(names::DEAD_REASON, "failed");
        headers.set(names::DEAD_ERROR, "MailError: 550\nno such \u{1b}[31mbox");
        headers.set(names::DEAD_AT, "2026-11-22T06:49:58.528108+00:00");
        Message { headers, body: (&br#"[[{"id":1}],{"cc":"x"},{}]"#[..]).into(), ..Message::default() }
    }

    #[test]
    fn a_row_fits_a_line() {
        let message = dead();
        assert_eq!(
            Letter::of(&message).row(),
            ["id-1", "send_email", "2026-11-22 06:49:58", "4", "failed: MailError: 550 no such [31mbox"]
        );
    }

    #[test]
    fn the_details_have_arguments_and_headers() {
        let message = dead();
        let details = serde_json::to_value(Letter::of(&message).details()).expect("JSON");
        assert_eq!(details["args"], json!([{ "id": 1 }]));
        assert_eq!(details["kwargs"], json!({ "cc": "x" }));
        assert_eq!((&details["retries"], &details["headers"]["id"]), (&json!(3), &json!("id-1")));
        assert!(!Letter::of(&message).text().contains('\u{1b}'));
    }

    #[test]
    fn large_numbers_are_shown_as_they_were_sent() {
        let message = Message { body: (&b"[[18446744073709551616],{},{}]"[..]).into(), ..dead() };
        let letter = Letter::of(&message);
        let json = serde_json::to_string(&letter.details()).expect("JSON");
        assert!(
            json.contains("[18446744073709551616]") && letter.text().contains("[18446744073709551616]"),
            "{json}"
        );
    }

    #[test]
    fn what_is_no_call_is_shown_as_it_is() {
        let message = Message { body: (&b"\xffHello"[..]).into(), ..Message::default() };
        let letter = Letter::of(&message);
        let details = serde_json::to_value(letter.details()).expect("JSON");
        assert_eq!(details["body"], json!("\u{fffd}Hello"));
        assert_eq!(letter.row()[..2], ["-", "-"]);
    }
}
