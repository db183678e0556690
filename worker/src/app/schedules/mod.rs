//! Schedules at run time: shared by all programs on a broker, and changed by hand.

mod call;
mod declared;
mod entry;
mod figures;
mod info;
mod origin;
mod outcomes;
mod reader;
mod record;
mod run;
mod state;

pub(crate) use declared::declared;
pub(crate) use entry::Entry;
pub(crate) use figures::{DueOutcome, Figures, ScheduleFigures};
pub use info::{RunOutcome, ScheduleInfo, ScheduledRun};
pub use origin::Origin;
pub(crate) use reader::{Reader, log_of};
use state::MOST;
pub(crate) use state::State;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::App;
use crate::error::{Error, Result};
use crate::message::codec;
use crate::routing::names::check_name;
use crate::schedule::Schedule;
use crate::task::Context;
use crate::task::registry::StartError;
use crate::tracing;

/// The schedules that the broker keeps. See [`App::schedules`].
#[derive(Clone, Debug)]
pub struct Schedules {
    app: App,
}

impl App {
    /// The schedules that the broker keeps, shared by all programs: they are listed, added and changed here, and
    /// survive restarts. A scheduler must run somewhere: `mq-worker beat`, or a worker with `--beat`.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use mq_worker::{App, Schedule, Timing};
    ///
    /// # async fn demo(app: App) -> mq_worker::Result<()> {
    /// let hourly = Timing::every(Duration::from_secs(3600))?;
    /// app.schedules().put(Schedule::new("refresh-eu", "refresh", hourly).arg("eu")).await?;
    /// for schedule in app.schedules().list().await? {
    ///     println!("{}: next {:?}", schedule.schedule.name, schedule.next);
    /// }
    /// app.schedules().pause("refresh-eu", None).await?;
    /// app.schedules().remove("refresh-eu").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn schedules(&self) -> Schedules {
        Schedules { app: self.clone() }
    }
}

impl Schedules {
    /// Adds a schedule, or replaces the one of this name. It overrides code and file until it is
    /// [removed](Self::remove). Calls that were due before now are not sent.
    ///
    /// # Errors
    /// A mistake in the schedule, arguments that do not fit a task of this program, more than 100,000 schedules, or a
    /// broker that cannot be reached.
    pub async fn put(&self, schedule: Schedule) -> Result<()> {
        self.check(&schedule)?;
        let reader = self.reader().await?;
        if !reader.state.has_room_for(&schedule.name, MOST) {
            return Err(Error::config(format!(
                "cannot add schedule `{}`: there are {MOST} already, and a broker keeps no more",
                schedule.name
            )));
        }
        let program = self.app.program();
        reader
            .append(&[Entry::Put {
                schedule: Box::new(schedule),
                origin: Origin::Hand,
                program,
                since: Utc::now(),
            }])
            .await
    }

    /// Removes a schedule that was put by hand. If the code or the file defines one of this name, that one takes effect again.
    ///
    /// # Errors
    /// There is no such schedule, or it is defined in code or in the file: delete it there, or [pause](Self::pause) it.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let reader = self.reader().await?;
        let record = reader.state.records.get(name).filter(|record| record.in_force().is_some());
        let Some(record) = record else { return Err(unknown(name, &reader.state)) };
        if record.of(&Origin::Hand).is_none() {
            let place = match record.in_force() {
                Some((Origin::File, _)) => "in `mq-worker.toml`",
                _ => "at its task in the code",
            };
            return Err(Error::config(format!(
                "cannot remove schedule `{name}`: it is written {place}; delete it there, or pause it"
            )));
        }
        reader.append(&[Entry::Remove { name: name.to_owned(), origin: Origin::Hand }]).await
    }

    /// Pauses a schedule until it is [resumed](Self::resume), or until a time. Calls that are due meanwhile are skipped.
    ///
    /// # Errors
    /// There is no such schedule, or the broker cannot be reached.
    pub async fn pause(&self, name: &str, until: Option<DateTime<Utc>>) -> Result<()> {
        self.change(name, Entry::Pause { name: name.to_owned(), until }).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// There is no such schedule, or the broker cannot be reached.
    pub async fn resume(&self, name: &str) -> Result<()> {
        self.change(name, Entry::Resume { name: name.to_owned(), since: Utc::now() }).await
    }

    /// Sends one call now, whether the schedule is paused or not, and returns its id; its due times stay as they are.
    ///
    /// # Errors
    /// There is no such schedule, or the call cannot be sent.
    pub async fn run(&self, name: &str) -> Result<String> {
        let found = self.get(name).await?.ok_or_else(|| no_such_schedule(name))?;
        let id = found.schedule.id_by_hand();
        let publication = self.app.scheduled_call(&found.schedule, Utc::now(), &id, None).await?;
        self.app.broker().await?.publish(publication).await?;
        let entry = Entry::Ran { name: name.to_owned(), id: id.clone(), on: Utc::now() };
        if let Err(error) = self.reader().await?.append(&[entry]).await {
            let error = format!("{error:#}");
            tracing::warn!(schedule = name, id, error, "call sent, but not recorded in the schedule log");
        }
        Ok(id)
    }

    /// All schedules, by name, with their next and last calls. The outcome of each schedule's last call is read from the
    /// result backend, for the first 500.
    ///
    /// # Errors
    /// The broker cannot be reached, or keeps no schedules.
    pub async fn list(&self) -> Result<Vec<ScheduleInfo>> {
        let (reader, now) = (self.reader().await?, Utc::now());
        let state = &reader.state;
        let found = state.kept().filter_map(|(name, record)| ScheduleInfo::of(name, record, state, now));
        let mut found: Vec<ScheduleInfo> = found.collect();
        self.app.add_outcomes(&mut found).await;
        Ok(found)
    }

    /// One schedule, with the outcomes of its last calls.
    ///
    /// # Errors
    /// The broker cannot be reached, or keeps no schedules.
    pub async fn get(&self, name: &str) -> Result<Option<ScheduleInfo>> {
        let (reader, now) = (self.reader().await?, Utc::now());
        let state = &reader.state;
        let found = state.records.get(name).and_then(|record| ScheduleInfo::of(name, record, state, now));
        let mut found: Vec<ScheduleInfo> = found.into_iter().collect();
        self.app.add_outcomes(&mut found).await;
        Ok(found.pop())
    }

    /// The schedule that sent a call, and its due time, if the call is one of its last ones. Ids that no schedule can have
    /// are not looked for, since reading the log creates it.
    #[cfg_attr(not(feature = "dashboard"), expect(dead_code, reason = "read by the feature `dashboard`"))]
    pub(crate) async fn of_call(&self, id: &str) -> Result<Option<(String, DateTime<Utc>)>> {
        if Uuid::parse_str(id).map_or(true, |id| id.get_version_num() != 5)
            || self.app.broker().await?.schedule_log().is_none()
        {
            return Ok(None);
        }
        let reader = self.reader().await?;
        let found = reader.state.kept().find_map(|(name, record)| {
            let (_, definition) = record.in_force()?;
            let run = record.runs.iter().find(|run| run.id(&definition.schedule) == id)?;
            Some((name.clone(), run.due))
        });
        Ok(found)
    }

    async fn change(&self, name: &str, entry: Entry) -> Result<()> {
        let reader = self.reader().await?;
        match reader.state.records.get(name).and_then(|record| record.in_force()) {
            Some(_) => reader.append(&[entry]).await,
            None => Err(unknown(name, &reader.state)),
        }
    }

    async fn reader(&self) -> Result<Reader> {
        Reader::open(self.app.broker().await?).await
    }

    /// Checks a schedule as far as this program can tell.
    pub(crate) fn check(&self, schedule: &Schedule) -> Result<()> {
        schedule.check()?;
        let refused = |error: Error| error.context(format_args!("schedule `{}`", schedule.name));
        let headers: Vec<_> = schedule.headers.clone().into_iter().collect();
        super::call_headers::check_headers(&schedule.task, &headers).map_err(refused)?;
        check_name("task", &schedule.task).map_err(refused)?;
        if let Some(queue) = &schedule.queue {
            check_name("queue", queue).map_err(refused)?;
        }
        let body = codec::encode_values(&schedule.args, &schedule.kwargs, &codec::Embed::default());
        let body = body.map_err(refused)?;
        let limit = self.app.config().max_message_size;
        if body.len() > limit {
            return Err(Error::config(format!(
                "schedule `{}`: its arguments are {} bytes, the limit is {limit} (`max_message_size`)",
                schedule.name,
                body.len()
            )));
        }
        if let Some(task) = self.app.registry().get(&schedule.task) {
            let misfit = |problem: &dyn std::fmt::Display| {
                Error::config(format!(
                    "schedule `{}`: its arguments do not fit task `{}`, which takes ({}): {problem}",
                    schedule.name, task.name, task.signature
                ))
            };
            let call = codec::Body::parse(&body).map_err(|error| misfit(&error))?;
            match task.begin(Context::detached(), call.arguments) {
                Ok(_never_run) => {}
                Err(StartError::Refused(error)) => return Err(misfit(&error)),
                Err(StartError::Panicked(panic)) => return Err(misfit(&panic)),
            }
        }
        Ok(())
    }
}

impl App {
    /// The counters of the scheduler of this process.
    pub(crate) fn schedule_figures(&self) -> &ScheduleFigures {
        &self.0.schedule_figures
    }

    /// The name of this program, which identifies its own schedules.
    pub(crate) fn program(&self) -> String {
        let name = self.worker_name();
        name.split('@').next().unwrap_or_default().to_owned()
    }
}

fn unknown(name: &str, state: &State) -> Error {
    let near = state
        .kept()
        .map(|(known, _)| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, _)| *distance <= (name.len() / 3).max(2));
    match near {
        Some((_, near)) => Error::config(format!("there is no schedule `{name}`; did you mean `{near}`?")),
        None => no_such_schedule(name),
    }
}

fn no_such_schedule(name: &str) -> Error {
    Error::config(format!("there is no schedule `{name}`; `mq-worker schedules list` lists all of them"))
}
