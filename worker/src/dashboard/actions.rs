//! Actions as data, shared by the forms of the page and the API.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::command::send_command;
use super::fields::{change, flag, number, several};
use super::letters::Letters;
use super::query::Query;
use super::replay::replay;
use super::schedules::{Named, PauseFields, ScheduleFields};
use super::selection::{calls, select};
use super::send::send;
use super::state::State;
use crate::admin::dead::discard::drop_letters;
use crate::admin::dead::search::LetterFilter;
use crate::admin::dead::survey;
use crate::admin::failure::{Failure, Outcome};
use crate::admin::progress::Progress;
use crate::admin::transfer::transfer;
use crate::app::{App, Pausable, Pause};
use crate::broker::DeleteGuard;
use crate::control::Control;
use crate::show::counted;

/// An action of the page or the API.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Drop the waiting messages of a queue.
    PurgeQueue { queue: String },
    /// Move the waiting messages of a queue to another one.
    MoveMessages {
        queue: String,
        to: String,
        #[serde(default, deserialize_with = "number")]
        limit: Option<u64>,
    },
    /// Delete a queue with its messages.
    DeleteQueue {
        queue: String,
        /// Delete it even if workers consume from it.
        #[serde(default, deserialize_with = "flag")]
        force: bool,
    },
    /// Send dead letters back to the queue that they came from.
    ReplayDead {
        queue: String,
        #[serde(flatten)]
        which: Letters,
    },
    /// Drop dead letters.
    DropDead {
        queue: String,
        #[serde(flatten)]
        which: Letters,
    },
    /// Run calls again: from their dead letters, else with the arguments kept in the history.
    Replay {
        #[serde(default, deserialize_with = "several")]
        ids: Vec<String>,
        /// All calls that a search finds, instead of `ids`.
        #[serde(default)]
        filter: Option<Query>,
    },
    /// Revoke calls; with `terminate`, also stop those that are running.
    Revoke {
        #[serde(default, deserialize_with = "several")]
        ids: Vec<String>,
        /// All calls that a search finds, instead of `ids`.
        #[serde(default)]
        filter: Option<Query>,
        #[serde(default, deserialize_with = "flag")]
        terminate: bool,
    },
    /// Send a call.
    Send {
        task: String,
        /// Positional arguments: a JSON array.
        #[serde(default)]
        args: Option<String>,
        /// Keyword arguments: a JSON object.
        #[serde(default)]
        kwargs: Option<String>,
        /// Default: the queue that the routes choose.
        #[serde(default)]
        queue: Option<String>,
    },
    /// Pause a queue or a task; running tasks continue.
    Pause {
        #[serde(default)]
        queue: Option<String>,
        #[serde(default)]
        task: Option<String>,
        /// The pause ends by itself after this time.
        #[serde(default, deserialize_with = "number")]
        minutes: Option<u64>,
    },
    /// End a pause.
    Resume {
        #[serde(default)]
        queue: Option<String>,
        #[serde(default)]
        task: Option<String>,
    },
    /// Add a schedule, or change one.
    PutSchedule(ScheduleFields),
    /// Send one call of a schedule now.
    RunSchedule(Named),
    /// Send nothing until the schedule is resumed.
    PauseSchedule(PauseFields),
    /// End the pause of a schedule.
    ResumeSchedule(Named),
    /// Remove a schedule added by hand, or revert one edited by hand.
    RemoveSchedule(Named),
    /// Add slots to a worker or remove some; a removed slot finishes its running task first.
    ResizeWorker {
        worker: String,
        /// The number of slots to add; negative to remove slots.
        #[serde(deserialize_with = "change")]
        by: i64,
    },
    /// Make a worker consume from another queue.
    AddQueue { worker: String, queue: String },
    /// Make a worker stop consuming from a queue.
    CancelQueue { worker: String, queue: String },
    /// Ask a worker to finish its running tasks and exit.
    StopWorker { worker: String },
}

impl Action {
    /// The name, as in a request.
    pub(crate) fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["action"].as_str().unwrap_or_default().to_owned()
    }

    /// Returns the target of the action for the audit trail. Arguments of calls are left out: they may be secret.
    pub(crate) fn subject(&self) -> String {
        match self {
            Self::PurgeQueue { queue } => queue.clone(),
            Self::DeleteQueue { queue, force } => {
                format!("{queue}{}", if *force { ", by force" } else { "" })
            }
            Self::MoveMessages { queue, to, .. } => format!("{queue} → {to}"),
            Self::ReplayDead { queue, which } | Self::DropDead { queue, which } => {
                let parts = [which.task.clone(), which.kind.clone(), which.id.clone()];
                let parts = std::iter::once(Some(queue.clone()))
                    .chain(parts)
                    .flatten()
                    .filter(|part| !part.is_empty());
                parts.collect::<Vec<_>>().join(" · ")
            }
            Self::Replay { ids, filter } => calls(ids, filter.as_ref()),
            Self::Revoke { ids, filter, terminate } => {
                format!("{}{}", calls(ids, filter.as_ref()), if *terminate { ", terminated" } else { "" })
            }
            Self::Send { task, queue, .. } => match queue {
                Some(queue) => format!("{task} → {queue}"),
                None => task.clone(),
            },
            Self::PutSchedule(fields) => fields.subject(),
            Self::PauseSchedule(fields) => fields.subject(),
            Self::RunSchedule(named) | Self::ResumeSchedule(named) | Self::RemoveSchedule(named) => {
                named.subject()
            }
            Self::StopWorker { worker } => worker.clone(),
            Self::ResizeWorker { worker, by } => format!("{worker} by {by:+}"),
            Self::AddQueue { worker, queue } | Self::CancelQueue { worker, queue } => {
                format!("{worker}: {queue}")
            }
            Self::Pause { queue, task, .. } | Self::Resume { queue, task } => {
                pausable(queue.as_deref(), task.as_deref())
                    .map_or_else(|_| String::new(), |what| what.to_string())
            }
        }
    }

    /// Performs the action and returns a sentence that describes the result.
    pub(crate) async fn perform(&self, state: &State, progress: &Arc<Progress>) -> Outcome<String> {
        let app = &state.app;
        match self {
            Self::PurgeQueue { queue } => {
                let (broker, _) = crate::admin::queue(app, queue).await?;
                let dropped = broker.purge(queue).await?;
                Ok(format!("{} dropped from {queue}.", counted(dropped, "message")))
            }
            Self::MoveMessages { queue, to, limit } => {
                let to = crate::app::config::value::queue(to)
                    .map_err(|problem| Failure::usage(format!("`{to}`: {problem}")))?;
                let moved = transfer(app, queue, &to, *limit, progress).await?;
                Ok(format!("{} moved from {queue} to {to}.", counted(moved, "message")))
            }
            Self::DeleteQueue { queue, force } => {
                let (broker, _) = crate::admin::queue(app, queue).await?;
                let guard = DeleteGuard { if_unused: !force, if_empty: false };
                let lost = broker.delete_queue_if(queue, guard).await?;
                Ok(format!("Queue {queue} deleted, with {}.", counted(lost, "message")))
            }
            Self::ReplayDead { queue, which } => replay_dead(app, which.of(queue), progress).await,
            Self::DropDead { queue, which } => {
                let dropped = drop_letters(app, which.of(queue), u32::MAX, progress).await?;
                Ok(format!("{} dropped.", counted(dropped.done, "dead letter")))
            }
            Self::Replay { ids, filter } => {
                let ids = select(state, ids, filter.as_ref()).await?;
                replay(state, &ids).await
            }
            Self::Revoke { ids, filter, terminate } => {
                let ids = select(state, ids, filter.as_ref()).await?;
                revoke(app, &ids, *terminate).await
            }
            Self::Send { task, args, kwargs, queue } => {
                send(app, task, args.as_deref(), kwargs.as_deref(), queue.as_deref()).await
            }
            Self::Pause { queue, task, minutes } => {
                let what = pausable(queue.as_deref(), task.as_deref())?;
                let mut pause = Pause::from(what.clone());
                if let Some(minutes) = minutes {
                    pause = pause.lasting(Duration::from_secs(minutes.saturating_mul(60)));
                }
                app.pause(pause).await?;
                Ok(match minutes {
                    None => format!("{what} is paused until it is resumed."),
                    Some(minutes) => format!("{what} is paused for {}.", counted(*minutes, "minute")),
                })
            }
            Self::Resume { queue, task } => {
                let what = pausable(queue.as_deref(), task.as_deref())?;
                app.resume(what.clone()).await?;
                Ok(format!("{what} is resumed."))
            }
            Self::PutSchedule(fields) => fields.put(app).await,
            Self::PauseSchedule(fields) => fields.pause(app).await,
            Self::RunSchedule(named) => named.run(app).await,
            Self::ResumeSchedule(named) => named.resume(app).await,
            Self::RemoveSchedule(named) => named.remove(app).await,
            Self::ResizeWorker { worker, by } => {
                let (method, noun) = if *by < 0 { ("pool_shrink", "fewer") } else { ("pool_grow", "more") };
                let slots = by.unsigned_abs();
                send_command(app, worker, method, "n", slots.into()).await?;
                Ok(format!("{worker} has {} {noun}.", counted(slots, "slot")))
            }
            Self::AddQueue { worker, queue } => {
                let queue = crate::app::config::value::queue(queue)
                    .map_err(|problem| Failure::usage(format!("`{queue}`: {problem}")))?;
                send_command(app, worker, "add_consumer", "queue", queue.clone().into()).await?;
                Ok(format!("{worker} consumes from {queue}."))
            }
            Self::CancelQueue { worker, queue } => {
                send_command(app, worker, "cancel_consumer", "queue", queue.clone().into()).await?;
                Ok(format!("{worker} consumes from {queue} no longer."))
            }
            Self::StopWorker { worker } => {
                Control::new(app.broker().await?).to([worker]).tell("shutdown", Map::new()).await?;
                Ok(format!("{worker} was asked to stop; it finishes its running tasks first."))
            }
        }
    }
}

async fn replay_dead(app: &App, which: LetterFilter, progress: &Arc<Progress>) -> Outcome<String> {
    let survey::Replayed { replayed, kept, expired, .. } = survey::replay(app, which, progress).await?;
    let mut text = format!("{} replayed.", counted(replayed, "dead letter"));
    if kept > 0 {
        text +=
            &format!(" {kept} stay in place: their task is unique, and another call of it waits or runs.");
    }
    if expired > 0 {
        text += &format!(" {expired} had expired and stay in place; replay them one by one.");
    }
    Ok(text)
}

/// Returns the queue or task to pause or resume.
fn pausable(queue: Option<&str>, task: Option<&str>) -> Outcome<Pausable> {
    match (queue, task) {
        (Some(queue), None) => Ok(Pausable::Queue(queue.to_owned())),
        (None, Some(task)) => Ok(Pausable::Task(task.to_owned())),
        _ => Err(Failure::usage("name a queue or a task to pause or resume, and not both")),
    }
}

async fn revoke(app: &App, ids: &[String], terminate: bool) -> Outcome<String> {
    for id in ids {
        match terminate {
            true => app.terminate(id).await?,
            false => app.revoke(id).await?,
        }
    }
    let what = counted(ids.len() as u64, "call");
    Ok(match terminate {
        true => format!("{what} revoked, and stopped where running."),
        false => format!("{what} revoked: what waits will not be run."),
    })
}

/// Parses an action from the fields of a form; a repeated field becomes a list.
pub(crate) fn of_form(fields: &[(String, String)]) -> Result<Action, String> {
    let (mut object, mut filter) = (Map::new(), Map::new());
    for (name, value) in fields {
        if let Some(name) = name.strip_prefix("filter.") {
            filter.insert(name.to_owned(), value.clone().into());
            continue;
        }
        match object.get_mut(name) {
            None => drop(object.insert(name.clone(), value.clone().into())),
            Some(Value::Array(values)) => values.push(value.clone().into()),
            Some(first) => *first = Value::Array(vec![first.take(), value.clone().into()]),
        }
    }
    if object.get("everything").is_some() {
        object.insert("filter".into(), Value::Object(filter));
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(fields: &[(&str, &str)]) -> Result<Action, String> {
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        of_form(&fields)
    }

    #[test]
    fn a_form_is_an_action() {
        let queue = || "email".to_owned();
        assert_eq!(
            form(&[
                ("csrf", "x"),
                ("action", "move-messages"),
                ("queue", "email"),
                ("to", "b"),
                ("limit", "")
            ]),
            Ok(Action::MoveMessages { queue: queue(), to: "b".into(), limit: None })
        );
        assert_eq!(
            form(&[("action", "delete-queue"), ("queue", "email"), ("force", "true")]),
            Ok(Action::DeleteQueue { queue: queue(), force: true })
        );
        assert_eq!(
            form(&[("action", "revoke"), ("ids", "a"), ("ids", "b"), ("ids", "c")]),
            Ok(Action::Revoke {
                ids: ["a", "b", "c"].map(String::from).into(),
                filter: None,
                terminate: false
            })
        );
        let query = Query { state: "FAILURE".into(), ..Query::default() };
        assert_eq!(
            form(&[("action", "replay"), ("filter.state", "FAILURE"), ("everything", "true")]),
            Ok(Action::Replay { ids: Vec::new(), filter: Some(query) })
        );
        let which = Letters { task: Some("t".into()), kind: Some("k".into()), id: None };
        assert_eq!(
            form(&[("action", "replay-dead"), ("queue", "email"), ("task", "t"), ("kind", "k")]),
            Ok(Action::ReplayDead { queue: queue(), which })
        );
        let resize = |by| form(&[("action", "resize-worker"), ("worker", "w@h"), ("by", by)]);
        assert_eq!(resize("-2"), Ok(Action::ResizeWorker { worker: "w@h".into(), by: -2 }));
        assert!(resize("0").is_err() && resize("many").is_err());
        assert!(form(&[("action", "explode")]).expect_err("unknown").contains("explode"));
        let limit = [("action", "move-messages"), ("queue", "a"), ("to", "b"), ("limit", "-1")];
        assert!(form(&limit).is_err());
    }

    #[test]
    fn the_audit_trail_names_no_arguments() {
        let send = form(&[("action", "send"), ("task", "t"), ("args", "[\"secret\"]"), ("queue", "q")])
            .expect("an action");
        assert_eq!((send.name(), send.subject()), ("send".into(), "t → q".into()));
    }
}
