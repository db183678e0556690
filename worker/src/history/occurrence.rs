//! One event, reduced to what the history keeps of it.

use std::borrow::Cow;

use chrono::{DateTime, SubsecRound, Utc};

use super::reported::Reported;

/// The longest arguments and results that are kept, in bytes.
pub(super) const LONGEST_VALUE: usize = 4 << 10;
/// The longest error text that is kept, in bytes.
const LONGEST_ERROR: usize = 2 << 10;
/// The longest traceback that is kept, in bytes.
const LONGEST_TRACEBACK: usize = 16 << 10;
/// The longest name or id that is kept, in bytes. Names of tasks and queues are shorter by far.
const LONGEST_NAME: usize = 255;
/// Marks the end of a text that was cut.
pub(super) const CUT: &str = " … (cut)";

/// What happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was sent.
    Sent,
    /// A worker received it.
    Received,
    /// It waits for its time.
    Delayed,
    /// A run started.
    Started,
    /// A run succeeded.
    Succeeded,
    /// It reported its progress or a state of its own.
    Reported,
    /// The last run failed.
    Failed,
    /// A run failed and will be repeated.
    Retried,
    /// It was revoked or has expired.
    Revoked,
    /// A worker rejected it.
    Rejected,
    /// It returned to its queue without having run.
    Requeued,
    /// It runs alone, as a suspected poison message.
    Quarantined,
    /// It moved to a dead-letter queue.
    DeadLettered,
}

/// Something that happened to a call. Fields that the event does not have are `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Occurrence {
    /// What happened.
    pub kind: Kind,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The id of the call.
    pub id: String,
    /// The task's name.
    pub name: Option<String>,
    /// The worker's name; `None` for an event of a sender.
    pub worker: Option<String>,
    /// The queue.
    pub queue: Option<String>,
    /// The positional arguments, as text.
    pub args: Option<String>,
    /// The named arguments, as text.
    pub kwargs: Option<String>,
    /// The result, as text.
    pub result: Option<String>,
    /// The error, as `Kind(message)` or `Kind: message`.
    pub error: Option<String>,
    /// The traceback.
    pub traceback: Option<String>,
    /// Why it was dead-lettered, rejected, revoked or requeued.
    pub reason: Option<String>,
    /// The number of retries before this run.
    pub retries: Option<u32>,
    /// The first call of its workflow.
    pub root: Option<String>,
    /// The call that sent it.
    pub parent: Option<String>,
    /// The earliest time to run.
    pub eta: Option<DateTime<Utc>>,
    /// After this time it will not run.
    pub expires: Option<DateTime<Utc>>,
    /// The progress or state that it reported.
    pub reported: Option<Reported>,
    /// How long the run took, in seconds.
    pub runtime: Option<f64>,
    /// How long the call waited in its queue, in seconds.
    pub wait: Option<f64>,
}

impl Occurrence {
    /// An occurrence without details.
    pub fn new(kind: Kind, id: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self {
            kind,
            at,
            id: id.into(),
            name: None,
            worker: None,
            queue: None,
            args: None,
            kwargs: None,
            result: None,
            error: None,
            traceback: None,
            reason: None,
            retries: None,
            root: None,
            parent: None,
            eta: None,
            expires: None,
            reported: None,
            runtime: None,
            wait: None,
        }
    }

    /// Limits it to the bounds of the history: no times in the future, no texts that are too long.
    pub(super) fn bounded(&self, now: DateTime<Utc>) -> Self {
        let text =
            |text: &Option<String>, longest| text.as_deref().map(|text| cut(text, longest).into_owned());
        let name = |name: &Option<String>| text(name, LONGEST_NAME).filter(|name| !name.is_empty());
        // As precise as the file, so that a repeated event is recognized.
        let at = self.at.min(now).trunc_subsecs(6);
        Self {
            kind: self.kind,
            at,
            id: cut(&self.id, LONGEST_NAME).into_owned(),
            name: name(&self.name),
            worker: name(&self.worker),
            queue: name(&self.queue),
            args: text(&self.args, LONGEST_VALUE),
            kwargs: text(&self.kwargs, LONGEST_VALUE),
            result: text(&self.result, LONGEST_VALUE),
            error: text(&self.error, LONGEST_ERROR),
            traceback: text(&self.traceback, LONGEST_TRACEBACK),
            reason: text(&self.reason, LONGEST_ERROR),
            retries: self.retries,
            root: name(&self.root),
            parent: name(&self.parent),
            eta: self.eta,
            expires: self.expires,
            reported: self.reported.as_ref().map(|said| Reported {
                state: cut(&said.state, LONGEST_NAME).into_owned(),
                description: text(&said.description, LONGEST_ERROR),
                at,
                ..said.clone()
            }),
            runtime: self.runtime.filter(|seconds| seconds.is_finite() && *seconds >= 0.0),
            wait: self.wait.filter(|seconds| seconds.is_finite() && *seconds >= 0.0),
        }
    }
}

/// The text, or its beginning and a mark if it is too long.
pub(super) fn cut(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return Cow::Borrowed(text);
    }
    let room = longest.saturating_sub(CUT.len());
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}{CUT}", &text[..end]))
}

/// The kind of an error: the part before its message in `Kind(message)`, `Kind: message` and `a.b.Kind(…)`.
pub(super) fn kind_of_error(error: &str) -> &str {
    let end = error.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(error.len());
    let name = &error[..end];
    match error[end..].chars().next() {
        Some('(' | ':') | None if !name.is_empty() => name.trim_end_matches('.'),
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_marked() {
        assert_eq!(cut("short", 10), "short");
        let text = cut("äöüäöüäöüäöü", 16);
        assert!(text.ends_with(CUT) && text.len() <= 16, "{text}");
    }

    #[test]
    fn the_kind_of_an_error_is_before_its_message() {
        for (error, kind) in [
            ("ValueError('no')", "ValueError"),
            ("MailError: no route", "MailError"),
            ("kombu.exceptions.Timeout()", "kombu.exceptions.Timeout"),
            ("Lost", "Lost"),
            ("it broke: again", "error"),
            ("", "error"),
        ] {
            assert_eq!(kind_of_error(error), kind, "{error}");
        }
    }

    #[test]
    fn times_from_the_future_and_nonsense_are_bounded() {
        let now = Utc::now();
        let mut late = Occurrence::new(Kind::Succeeded, "a", now + chrono::TimeDelta::days(9));
        late.runtime = Some(f64::NAN);
        late.args = Some("x".repeat(LONGEST_VALUE * 2));
        let bounded = late.bounded(now);
        assert_eq!((bounded.at, bounded.runtime), (now.trunc_subsecs(6), None));
        assert_eq!(bounded.args.map(|args| args.len()), Some(LONGEST_VALUE));
    }
}
