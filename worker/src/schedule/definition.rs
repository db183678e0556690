//! A schedule: what is called, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CatchUp, Overlap, Timing};
use crate::error::{Error, Result};
use crate::show;

/// The longest name, in bytes.
const MAX_NAME: usize = 200;
/// The longest jitter.
const MAX_JITTER: Duration = Duration::from_secs(24 * 60 * 60);
/// The namespace of the ids of scheduled calls.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_7363_6865_6475);

/// A schedule: which task is called with which arguments, and when.
///
/// Most schedules are written at the task, `#[task(cron = "0 9 * * *")]`, or in `mq-worker.toml`. This type is for those
/// that are created at run time: see [`App::schedules`](crate::App::schedules).
///
/// ```
/// use std::time::Duration;
/// use mq_worker::{CatchUp, Overlap, Schedule, Timing};
///
/// # fn main() -> mq_worker::Result<()> {
/// let schedule = Schedule::new("report-42", "reports.build", Timing::cron("0 9 * * mon")?)
///     .arg(42)
///     .queue("reports")
///     .overlap(Overlap::Skip)
///     .catch_up(CatchUp::Last)
///     .jitter(Duration::from_secs(30));
/// assert!(schedule.check().is_ok());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Schedule {
    /// The unique name.
    pub name: String,
    /// The task's name.
    pub task: String,
    /// When it is due.
    pub timing: Timing,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Map<String, Value>,
    /// The queue; default: where calls of the task go.
    pub queue: Option<String>,
    /// Your own headers.
    pub headers: BTreeMap<String, Value>,
    /// A call that waited longer in its queue is not run.
    pub expires: Option<Duration>,
    /// What happens while the previous call waits or runs.
    pub overlap: Overlap,
    /// What happens to due times that were missed.
    pub catch_up: CatchUp,
    /// Each call is sent later by up to this much; how much follows from the name and the due time.
    pub jitter: Duration,
}

impl Schedule {
    /// A schedule of a task without arguments.
    pub fn new(name: impl Into<String>, task: impl Into<String>, timing: Timing) -> Self {
        Self {
            name: name.into(),
            task: task.into(),
            timing,
            args: Vec::new(),
            kwargs: Map::new(),
            queue: None,
            headers: BTreeMap::new(),
            expires: None,
            overlap: Overlap::default(),
            catch_up: CatchUp::default(),
            jitter: Duration::ZERO,
        }
    }

    /// Adds a positional argument.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Adds a keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.into(), value.into());
        self
    }

    /// Sends the calls to this queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// Adds a header of your own to each call.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }

    /// Does not run a call that has waited longer in its queue.
    #[must_use]
    pub fn expires(mut self, lifetime: Duration) -> Self {
        self.expires = Some(lifetime);
        self
    }

    /// Sets what happens while the previous call waits or runs. Default: [`Overlap::Allow`].
    #[must_use]
    pub fn overlap(mut self, overlap: Overlap) -> Self {
        self.overlap = overlap;
        self
    }

    /// Sets what happens to due times that were missed. Default: [`CatchUp::Last`].
    #[must_use]
    pub fn catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }

    /// Sends each call later by up to this much. Default: none.
    #[must_use]
    pub fn jitter(mut self, jitter: Duration) -> Self {
        self.jitter = jitter;
        self
    }

    /// Checks what can be checked without a broker.
    ///
    /// # Errors
    /// A name that is empty or too long, or a jitter that is longer than a day or than the interval.
    pub fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::config(format!("schedule `{}`: {problem}", self.name)));
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return Err(Error::config("the name of a schedule is empty or has control characters in it"));
        }
        if self.name.len() > MAX_NAME {
            return Err(Error::config(format!(
                "the name of a schedule is {} bytes long; {MAX_NAME} are allowed",
                self.name.len()
            )));
        }
        if self.task.is_empty() {
            return refuse("the name of its task is empty".into());
        }
        let longest = self.timing.as_every().unwrap_or(MAX_JITTER).min(MAX_JITTER);
        if self.jitter > longest {
            return refuse(format!(
                "a jitter of {} is too long: it can be {} at most, {}",
                show::duration(self.jitter),
                show::duration(longest),
                if longest == MAX_JITTER { "a day" } else { "the interval" }
            ));
        }
        if self.expires == Some(Duration::ZERO) {
            return refuse("it expires after no time at all, so that no call would run".into());
        }
        Ok(())
    }

    /// The id of the call for a due time: the same for all schedulers. `era` counts how often the clock was set back.
    pub(crate) fn call_id(&self, due: DateTime<Utc>, era: u32) -> String {
        let mut text = format!("{}\0{}", self.name, due.timestamp_millis());
        if era > 0 {
            text += &format!("\0{era}");
        }
        Uuid::new_v5(&NAMESPACE, text.as_bytes()).to_string()
    }

    /// A new id for a call that is sent by hand.
    pub(crate) fn id_by_hand(&self) -> String {
        let text = format!("{}\0by hand\0{}", self.name, Uuid::new_v4());
        Uuid::new_v5(&NAMESPACE, text.as_bytes()).to_string()
    }

    /// The key of the lock that keeps calls of this schedule from overlapping.
    pub(crate) fn lock_key(&self) -> String {
        Uuid::new_v5(&NAMESPACE, self.name.as_bytes()).simple().to_string()
    }
}

/// A schedule as it is written in a file, on the wire, and for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    task: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tz: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    every: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    args: Vec<Value>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    kwargs: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    queue: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(default)]
    overlap: Overlap,
    #[serde(default)]
    catch_up: CatchUp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jitter: Option<String>,
}

impl TryFrom<Written> for Schedule {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let Written {
            name,
            task,
            cron,
            tz,
            every,
            at,
            args,
            kwargs,
            queue,
            headers,
            expires,
            overlap,
            catch_up,
            jitter,
        } = written;
        let name_it = |problem: String| {
            if problem.starts_with("schedule `") { problem } else { format!("schedule `{name}`: {problem}") }
        };
        let time = |key: &str, text: Option<String>| {
            let read = text.map(|text| {
                humantime::parse_duration(text.trim()).map_err(|_| {
                    name_it(format!(
                        "`{key}` is `{text}`: expected a duration with its unit, such as `30s` or `1h 30m`"
                    ))
                })
            });
            read.transpose()
        };
        let timing = match (cron, every, at) {
            (Some(cron), None, None) => Timing::cron(&cron),
            (None, Some(every), None) => Timing::every(time("every", Some(every))?.unwrap_or_default()),
            (None, None, Some(at)) => match DateTime::parse_from_rfc3339(at.trim()) {
                Ok(moment) => Ok(Timing::at(moment.with_timezone(&Utc))),
                Err(_) => Err(Error::config(format!(
                    "`at` is `{at}`: expected a time with its offset, such as `2027-01-31T12:00:00+01:00`"
                ))),
            },
            (None, None, None) => Err(Error::config("it is never due: give it `cron`, `every` or `at`")),
            _ => Err(Error::config("`cron`, `every` and `at` exclude each other: give it one of them")),
        };
        let timing = timing.and_then(|timing| match tz {
            Some(tz) => timing.in_zone(&tz),
            None => Ok(timing),
        });
        let schedule = Self {
            timing: timing.map_err(|error| name_it(error.to_string()))?,
            task,
            args,
            kwargs,
            queue,
            headers,
            expires: time("expires", expires)?,
            overlap,
            catch_up,
            jitter: time("jitter", jitter)?.unwrap_or_default(),
            name: name.clone(),
        };
        schedule.check().map_err(|error| name_it(error.to_string()))?;
        Ok(schedule)
    }
}

impl From<Schedule> for Written {
    fn from(schedule: Schedule) -> Self {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let timing = &schedule.timing;
        Self {
            cron: timing.as_cron().map(str::to_owned),
            tz: timing.zone().map(str::to_owned),
            every: timing.as_every().map(time),
            at: timing.as_at().map(|moment| moment.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            name: schedule.name,
            task: schedule.task,
            args: schedule.args,
            kwargs: schedule.kwargs,
            queue: schedule.queue,
            headers: schedule.headers,
            expires: schedule.expires.map(time),
            overlap: schedule.overlap,
            catch_up: schedule.catch_up,
            jitter: Some(schedule.jitter).filter(|jitter| !jitter.is_zero()).map(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: Value) -> Result<Schedule, String> {
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let full = json!({
            "name": "a", "task": "t", "cron": "0 9 * * mon-fri", "tz": "Europe/Berlin", "args": [1, {"a": null}],
            "kwargs": {"b": "c"}, "queue": "q", "headers": {"tenant": "x"}, "expires": "1h", "overlap": "queue",
            "catch_up": "all", "jitter": "30s",
        });
        let short =
            json!({"name": "a", "task": "t", "every": "1m 30s", "overlap": "allow", "catch_up": "last"});
        let once = json!({"name": "a", "task": "t", "at": "2027-01-31T11:00:00Z", "overlap": "skip", "catch_up": "none"});
        for written in [full, short, once] {
            let schedule = read(written.clone()).expect("a schedule");
            assert_eq!(serde_json::to_value(&schedule).expect("JSON"), written);
        }
    }

    #[test]
    fn a_mistake_names_the_schedule_and_the_remedy() {
        for (written, words) in [
            (
                json!({"name": "a", "task": "t"}),
                "schedule `a`: it is never due: give it `cron`, `every` or `at`",
            ),
            (json!({"name": "a", "task": "t", "every": "5m", "cron": "@daily"}), "exclude each other"),
            (
                json!({"name": "a", "task": "t", "every": "5"}),
                "schedule `a`: `every` is `5`: expected a duration",
            ),
            (json!({"name": "a", "task": "t", "every": "1ms"}), "too short"),
            (json!({"name": "a", "task": "t", "every": "5m", "jitter": "6m"}), "5m at most, the interval"),
            (json!({"name": "a", "task": "t", "every": "5m", "tz": "UTC"}), "takes no time zone"),
            (json!({"name": "a", "task": "t", "cron": "@daily", "tz": "Mars"}), "time zone `Mars`"),
            (
                json!({"name": "a", "task": "t", "cron": "0 0 31 2 *"}),
                "schedule `a`: cron expression `0 0 31 2 *`: it names a day",
            ),
            (
                json!({"name": "a", "task": "t", "at": "tomorrow"}),
                "`at` is `tomorrow`: expected a time with its offset",
            ),
            (json!({"name": "a", "task": "t", "at": "2027-01-01T00:00:00"}), "with its offset"),
            (json!({"name": "", "task": "t", "every": "5m"}), "is empty"),
            (json!({"name": "a", "task": "", "every": "5m"}), "schedule `a`: the name of its task is empty"),
            (json!({"name": "a", "task": "t", "every": "5m", "when": 1}), "unknown field `when`"),
            (json!({"name": "a", "task": "t", "every": "5m", "overlap": "maybe"}), "unknown variant `maybe`"),
        ] {
            let problem = read(written.clone()).expect_err("refused");
            assert!(problem.contains(words), "{written}: {problem}");
        }
        assert!(read(json!({"name": "n".repeat(201), "task": "t", "every": "5m"})).is_err());
    }

    #[test]
    fn the_id_of_a_call_follows_from_name_and_due_time() {
        let timing = Timing::every(Duration::from_secs(60)).expect("an interval");
        let (one, other) = (Schedule::new("a", "t", timing.clone()), Schedule::new("b", "t", timing));
        let due = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        assert_eq!(one.call_id(due, 0), one.clone().arg(1).call_id(due, 0));
        let ids = [
            one.call_id(due, 0),
            one.call_id(due, 1),
            one.call_id(due + chrono::Duration::seconds(60), 0),
            other.call_id(due, 0),
        ];
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
