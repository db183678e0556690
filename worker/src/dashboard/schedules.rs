//! Actions on schedules: add, change, run, pause and remove them.

use chrono::{TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fields::{flag, number};
use crate::admin::failure::{Failure, Outcome};
use crate::admin::schedules::complaint;
use crate::app::App;
use crate::schedule::Schedule;
use crate::show;

/// A schedule as entered in a form; an empty text counts as none.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct ScheduleFields {
    name: String,
    task: String,
    cron: Option<String>,
    tz: Option<String>,
    every: Option<String>,
    at: Option<String>,
    /// A JSON array; if empty, an existing schedule keeps its arguments.
    args: Option<String>,
    /// A JSON object; likewise.
    kwargs: Option<String>,
    queue: Option<String>,
    expires: Option<String>,
    overlap: Option<String>,
    catch_up: Option<String>,
    jitter: Option<String>,
    /// Refuses to change an existing schedule.
    #[serde(deserialize_with = "flag")]
    is_new: bool,
}

/// The name of a schedule.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Named {
    schedule: String,
}

/// Which schedule to pause, and for how long.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct PauseFields {
    schedule: String,
    /// The pause ends by itself after this time.
    #[serde(default, deserialize_with = "number")]
    minutes: Option<u64>,
}

impl ScheduleFields {
    pub(crate) fn subject(&self) -> String {
        format!("{}: {}", self.name, self.task)
    }

    /// Adds the schedule, or changes it.
    pub(crate) async fn put(&self, app: &App) -> Outcome<String> {
        let known = app.schedules().get(self.name.trim()).await?;
        if self.is_new && known.is_some() {
            let name = self.name.trim();
            return Err(Failure::failed(format!(
                "there is a schedule `{name}` already: open it to change it"
            )));
        }
        let schedule = self.read(known.map(|known| known.schedule).as_ref())?;
        let Schedule { name, task, .. } = schedule.clone();
        app.schedules().put(schedule).await?;
        let next = app.schedules().get(&name).await?.and_then(|found| found.next);
        let next = next.map_or_else(|| "never due".into(), |next| format!("next at {}", show::time(next)));
        let saved = format!("Schedule {name} is saved, {next}.");
        Ok(match complaint(app, &task).await {
            Some(problem) => format!("{saved} But {problem}"),
            None => saved,
        })
    }

    /// Parses the schedule. What the form does not show is kept from the known schedule.
    fn read(&self, known: Option<&Schedule>) -> Outcome<Schedule> {
        let mut object = Map::new();
        let texts = [
            ("name", Some(&self.name)),
            ("task", Some(&self.task)),
            ("cron", self.cron.as_ref()),
            ("tz", self.tz.as_ref()),
            ("every", self.every.as_ref()),
            ("at", self.at.as_ref()),
            ("queue", self.queue.as_ref()),
            ("expires", self.expires.as_ref()),
            ("overlap", self.overlap.as_ref()),
            ("catch_up", self.catch_up.as_ref()),
            ("jitter", self.jitter.as_ref()),
        ];
        for (name, text) in texts {
            let text = text.map(|text| text.trim()).unwrap_or_default();
            if !text.is_empty() || matches!(name, "name" | "task") {
                object.insert(name.into(), text.into());
            }
        }
        let mut schedule: Schedule =
            serde_json::from_value(object.into()).map_err(|error| Failure::usage(error.to_string()))?;
        let given = |text: &Option<String>| text.as_deref().map(str::trim).unwrap_or_default().to_owned();
        let (args, kwargs) = (given(&self.args), given(&self.kwargs));
        let wrong = |expected: &str| Failure::usage(format!("the arguments are not {expected}"));
        match (args.as_str(), known) {
            ("", None) => {}
            ("", Some(known)) => schedule.args.clone_from(&known.args),
            (args, _) => {
                let read = serde_json::from_str(args);
                schedule.args = read.map_err(|_| wrong("a JSON array, such as [1, \"two\"]"))?;
            }
        }
        match (kwargs.as_str(), known) {
            ("", None) => {}
            ("", Some(known)) => schedule.kwargs.clone_from(&known.kwargs),
            (kwargs, _) => {
                let read = serde_json::from_str::<Map<String, Value>>(kwargs);
                schedule.kwargs = read.map_err(|_| wrong("a JSON object, such as {\"name\": 1}"))?;
            }
        }
        if let Some(known) = known {
            schedule.headers.clone_from(&known.headers);
        }
        Ok(schedule)
    }
}

impl Named {
    pub(crate) fn subject(&self) -> String {
        self.schedule.clone()
    }

    /// Sends a call now.
    pub(crate) async fn run(&self, app: &App) -> Outcome<String> {
        let id = app.schedules().run(&self.schedule).await?;
        Ok(format!("A call of schedule {} was sent as {id}.", self.schedule))
    }

    pub(crate) async fn resume(&self, app: &App) -> Outcome<String> {
        app.schedules().resume(&self.schedule).await?;
        Ok(format!("Schedule {} is resumed.", self.schedule))
    }

    /// Removes a schedule added by hand, or reverts one edited by hand.
    pub(crate) async fn remove(&self, app: &App) -> Outcome<String> {
        let name = &self.schedule;
        app.schedules().remove(name).await?;
        Ok(match app.schedules().get(name).await? {
            None => format!("Schedule {name} is removed."),
            Some(_) => format!("Schedule {name} is back to its definition in code or file."),
        })
    }
}

impl PauseFields {
    pub(crate) fn subject(&self) -> String {
        self.schedule.clone()
    }

    pub(crate) async fn pause(&self, app: &App) -> Outcome<String> {
        let name = &self.schedule;
        let Some(minutes) = self.minutes else {
            app.schedules().pause(name, None).await?;
            return Ok(format!("Schedule {name} is paused until it is resumed."));
        };
        let time = i64::try_from(minutes).ok().and_then(TimeDelta::try_minutes);
        let until = time.and_then(|time| Utc::now().checked_add_signed(time));
        let until = until.ok_or_else(|| Failure::usage(format!("{minutes} minutes are too many")))?;
        app.schedules().pause(name, Some(until)).await?;
        Ok(format!("Schedule {name} is paused for {}.", show::counted(minutes, "minute")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> ScheduleFields {
        serde_json::from_value(value).expect("fields")
    }

    #[test]
    fn a_form_is_a_schedule() {
        let form = fields(json!({
            "csrf": "x", "name": " nightly ", "task": "clean", "cron": "0 3 * * *", "tz": "Europe/Berlin", "every": "",
            "at": "", "args": "[1]", "kwargs": "", "queue": "", "expires": "1h", "overlap": "skip", "jitter": "30s",
        }));
        let schedule = form.read(None).expect("a schedule");
        assert_eq!((schedule.name.as_str(), &schedule.args), ("nightly", &vec![json!(1)]));
        let written = serde_json::to_value(&schedule).expect("JSON");
        assert_eq!(
            (&written["tz"], &written["overlap"], &written["queue"]),
            (&json!("Europe/Berlin"), &json!("skip"), &Value::Null)
        );
        // Arguments that the form leaves out are kept.
        let other = fields(json!({"name": "nightly", "task": "clean", "every": "5m", "kwargs": "{}"}));
        let changed = other.read(Some(&schedule.clone().kwarg("a", 1).header("h", 2))).expect("a schedule");
        assert_eq!((changed.args.len(), changed.kwargs.len(), changed.headers.len()), (1, 0, 1));
    }

    #[test]
    fn a_mistake_is_told() {
        for (given, words) in [
            (json!({"name": "", "task": "t", "every": "5m"}), "is empty"),
            (json!({"name": "a", "task": "", "every": "5m"}), "the name of its task is empty"),
            (json!({"name": "a", "task": "t"}), "never due"),
            (json!({"name": "a", "task": "t", "every": "5m", "cron": "@daily"}), "exclude each other"),
            (json!({"name": "a", "task": "t", "cron": "0 0 31 2 *"}), "it names a day"),
            (json!({"name": "a", "task": "t", "every": "5m", "args": "{}"}), "not a JSON array"),
            (json!({"name": "a", "task": "t", "every": "5m", "kwargs": "[]"}), "not a JSON object"),
            (json!({"name": "a", "task": "t", "every": "5m", "overlap": "maybe"}), "maybe"),
        ] {
            let failure = fields(given.clone()).read(None).expect_err("refused");
            let (_, text) = failure.into_parts();
            assert!(text.contains(words), "{given}: {text}");
        }
    }
}
