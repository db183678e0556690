//! Pauses queues and tasks, by a register of the broker that running and later workers obey.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::App;
use crate::broker::{Note, Register};
use crate::connection::background;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::routing::names::check_name;

/// A pause longer than this counts as one without an end: its note is kept until the pause is ended.
const UNLIMITED: Duration = Duration::from_secs(9 * 365 * 24 * 60 * 60);

/// The argument of a `ping` that announces a change. Every worker knows `ping`: Python's workers ignore the argument,
/// while an unknown command would make them log a traceback.
const ANNOUNCEMENT: &str = "mq_paused";

/// What can be paused. A `&str` is the name of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pausable {
    /// A queue: workers stop consuming it, and its messages wait in the broker. Running tasks continue.
    Queue(String),
    /// A task, by its name: workers return its messages to wait in the broker, without spending an attempt.
    Task(String),
}

/// A pause.
///
/// ```
/// use std::time::Duration;
///
/// use mq_worker::app::Pause;
///
/// let pause = Pause::task("send_email").lasting(Duration::from_secs(3600));
/// assert!(pause.until.is_some());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pause {
    /// What is paused.
    #[serde(flatten)]
    pub what: Pausable,
    /// When the pause ends by itself. `None`: when it is [resumed](App::resume).
    #[serde(serialize_with = "to_the_second")]
    pub until: Option<DateTime<Utc>>,
}

impl Pause {
    /// Pauses a queue.
    pub fn queue(name: impl Into<String>) -> Self {
        Pausable::Queue(name.into()).into()
    }

    /// Pauses a task, by its name.
    pub fn task(name: impl Into<String>) -> Self {
        Pausable::Task(name.into()).into()
    }

    /// Ends at this time.
    #[must_use]
    pub fn until(mut self, time: DateTime<Utc>) -> Self {
        self.until = Some(time);
        self
    }

    /// Ends after this long.
    #[must_use]
    pub fn lasting(mut self, time: Duration) -> Self {
        self.until =
            chrono::Duration::from_std(time).ok().and_then(|time| Utc::now().checked_add_signed(time));
        self
    }
}

impl From<Pausable> for Pause {
    fn from(what: Pausable) -> Self {
        Self { what, until: None }
    }
}

impl From<&str> for Pause {
    fn from(queue: &str) -> Self {
        Self::queue(queue)
    }
}

impl From<&str> for Pausable {
    fn from(queue: &str) -> Self {
        Self::Queue(queue.to_owned())
    }
}

impl fmt::Display for Pausable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(name) => write!(f, "queue `{name}`"),
            Self::Task(name) => write!(f, "task `{name}`"),
        }
    }
}

impl Pausable {
    fn check(&self) -> Result<()> {
        match self {
            Self::Queue(name) => check_name("queue", name),
            Self::Task(name) => check_name("task", name),
        }
    }

    /// The id of its note in the register.
    fn id(&self) -> String {
        match self {
            Self::Queue(name) => format!("queue:{name}"),
            Self::Task(name) => format!("task:{name}"),
        }
    }

    fn from_id(id: &str) -> Option<Self> {
        match id.split_once(':')? {
            ("queue", name) => Some(Self::Queue(name.into())),
            ("task", name) => Some(Self::Task(name.into())),
            _ => None,
        }
    }
}

/// The pauses in force according to the notes: the last note about a queue or task counts, unless it has expired.
pub(crate) fn in_force(notes: Vec<Note>, now: DateTime<Utc>) -> BTreeMap<Pausable, DateTime<Utc>> {
    let known = notes.into_iter().filter_map(|note| Some((Pausable::from_id(&note.id)?, note.until)));
    let mut ends: BTreeMap<_, _> = known.collect();
    ends.retain(|_, until| *until > now);
    ends
}

/// Reads a change that was announced to a worker: what is paused, and until when. A time in the past ends the pause.
pub(crate) fn announced(arguments: &Map<String, Value>) -> Option<(Pausable, DateTime<Utc>)> {
    let (id, until): (String, i64) = serde_json::from_value(arguments.get(ANNOUNCEMENT)?.clone()).ok()?;
    Some((Pausable::from_id(&id)?, DateTime::from_timestamp_millis(until)?))
}

impl App {
    /// Pauses a queue or a task until it is [resumed](Self::resume), or until the given time.
    ///
    /// The broker keeps the pause: workers that are running obey it within a second (within two seconds with
    /// `worker.control = false`), workers that start later obey it from their first message, and it survives a restart of
    /// everything. Pausing again replaces the end of the pause. Python's workers ignore it.
    ///
    /// - A paused queue is not consumed. Its messages wait in the broker; tasks that are running continue.
    /// - The messages of a paused task go back to wait in the broker, without spending an attempt: one second at first,
    ///   doubling to a minute. After a resume, a message runs when that wait ends, so up to a minute and a half later. For
    ///   a queue with very many messages of one task, pausing the queue is cheaper.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// use std::time::Duration;
    ///
    /// use mq_worker::app::{Pausable, Pause};
    ///
    /// app.pause("email").await?;
    /// app.pause(Pause::task("send_sms").lasting(Duration::from_secs(600))).await?;
    /// app.resume("email").await?;
    /// app.resume(Pausable::Task("send_sms".into())).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A name that is not valid, an end in the past, or a broker that does not accept the note. If the error
    /// [is unsupported](Error::is_unsupported), the broker cannot keep pauses.
    pub async fn pause(&self, pause: impl Into<Pause>) -> Result<()> {
        let Pause { what, until } = pause.into();
        what.check()?;
        if let Some(until) = until.filter(|until| *until <= Utc::now()) {
            let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
            return Err(Error::config(format!(
                "cannot pause {what} until {until}: that time is in the past"
            )));
        }
        let forever = Note::new("", Register::Paused.max_lifetime()).until;
        let until = until.unwrap_or(forever).min(forever);
        self.set_paused(&what, until)
            .await
            .map_err(|error| error.context(format_args!("cannot pause {what}")))
    }

    /// Ends a pause. Without a pause, nothing changes.
    ///
    /// # Errors
    /// As for [`pause`](Self::pause).
    pub async fn resume(&self, what: impl Into<Pausable>) -> Result<()> {
        let what = what.into();
        what.check()?;
        self.set_paused(&what, DateTime::UNIX_EPOCH)
            .await
            .map_err(|error| error.context(format_args!("cannot resume {what}")))
    }

    /// Lists everything that is paused.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub async fn paused(&self) -> Result<Vec<Pause>> {
        let broker = self.broker().await?;
        // Twice, so that a broker that cannot be reached is reported as such.
        let limit = self.config().publish_timeout.saturating_mul(2);
        let read = background::timeout(limit, broker.newer_notes(Register::Paused, 0)).await?;
        let late = || Error::timeout(format!("no answer within {}", humantime::format_duration(limit)));
        let notes = match read.unwrap_or_else(|| Err(late())) {
            Err(error) if error.is_unsupported() => Vec::new(),
            notes => notes.map_err(|error| error.context("cannot read what is paused"))?.notes,
        };
        let now = Utc::now();
        let end = |until: DateTime<Utc>| {
            let is_limited = (until - now).to_std().is_ok_and(|left| left < UNLIMITED);
            is_limited.then_some(until)
        };
        Ok(in_force(notes, now).into_iter().map(|(what, until)| Pause { what, until: end(until) }).collect())
    }

    async fn set_paused(&self, what: &Pausable, until: DateTime<Utc>) -> Result<()> {
        let broker = self.broker().await?;
        let note = Note { id: what.id(), until, terminate: false };
        broker.note(Register::Paused, &note).await?;
        let announcement = json!({ANNOUNCEMENT: [note.id, until.timestamp_millis()]});
        let arguments = announcement.as_object().cloned().unwrap_or_default();
        let sent = Control::new(broker).tell("ping", arguments).await;
        sent.map_err(|error| {
            error.context("the broker has recorded it, but running workers may take half a minute to notice")
        })
    }
}

fn to_the_second<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.to_rfc3339_opts(SecondsFormat::Secs, true)).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_note_counts_and_one_that_has_lapsed_ends_the_pause() {
        let now = Utc::now();
        let note = |id: &str, seconds: i64| Note {
            id: id.into(),
            until: now + chrono::Duration::seconds(seconds),
            terminate: false,
        };
        let notes = vec![
            note("queue:a", 10),
            note("task:a", 10),
            note("queue:b:c", 10),
            note("queue:a", -10),
            note("task:a", 20),
            note("later versions: what they like", 10),
        ];
        let ends: Vec<_> =
            in_force(notes, now).into_iter().map(|(what, end)| (what, (end - now).num_seconds())).collect();
        assert_eq!(ends, [(Pausable::Queue("b:c".into()), 10), (Pausable::Task("a".into()), 20)]);
    }

    #[test]
    fn an_announcement_is_read_and_a_plain_ping_is_none() {
        let read = |value: Value| announced(value.as_object().expect("an object"));
        let (what, until) = read(json!({"mq_paused": ["task:x", 0]})).expect("an announcement");
        assert_eq!((what, until), (Pausable::Task("x".into()), DateTime::UNIX_EPOCH));
        for other in [json!({}), json!({"mq_paused": true}), json!({"mq_paused": ["x", 0]})] {
            assert_eq!(read(other), None);
        }
    }

    #[test]
    fn a_pause_has_a_flat_form() {
        let time = DateTime::from_timestamp(0, 0).expect("a time");
        let json = serde_json::to_value(Pause::queue("mail").until(time)).expect("JSON");
        assert_eq!(json, json!({"queue": "mail", "until": "1970-01-01T00:00:00Z"}));
        assert_eq!(
            serde_json::to_value(Pause::task("t")).expect("JSON"),
            json!({"task": "t", "until": null})
        );
    }
}
