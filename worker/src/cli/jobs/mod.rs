//! `mq-worker jobs …`: lists, shows, retries and moves calls, with the help of the history.

mod listing;
mod retry;
mod timeline;

use std::path::Path;

use super::arguments::{CommonArguments, HistoryArguments, JobMoveArguments, JobShowArguments, JobsCommand};
use super::exit::{Failure, Outcome};
use super::{operate, output, settings};
use crate::admin::one_message;
use crate::app::{App, Config};
use crate::history::{History, Job, Retention};

pub(super) fn run(command: JobsCommand, common: &CommonArguments) -> Outcome {
    match command {
        // Reading the history needs no broker.
        JobsCommand::List(arguments) => with_history(&arguments.history, common, async |history| {
            listing::list(&history, &arguments).await
        }),
        JobsCommand::Show(arguments) => {
            with_history(&arguments.history, common, async |history| show(&history, &arguments).await)
        }
        JobsCommand::Retry(arguments) => {
            operate::run(common, |app| async move { retry::retry(&app, arguments).await })
        }
        JobsCommand::Move(arguments) => {
            operate::run(common, |app| async move { relocate(&app, &arguments).await })
        }
    }
}

/// Runs a command that needs only the history.
fn with_history(
    arguments: &HistoryArguments,
    common: &CommonArguments,
    command: impl AsyncFnOnce(History) -> Outcome,
) -> Outcome {
    let config = settings::load(common)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(async { command(open(&config, arguments).await?).await })
}

/// Opens the history, which must exist.
pub(super) async fn open(config: &Config, arguments: &HistoryArguments) -> Outcome<History> {
    let path: &Path = arguments.history.as_deref().unwrap_or(&config.history);
    let retention = Retention { keep: config.history_keep, max_rows: config.history_max_rows };
    Ok(History::open_existing(path, retention).await?)
}

/// Opens the history if there is one. A file given with `--history` must exist.
pub(super) async fn open_if_there(config: &Config, arguments: &HistoryArguments) -> Outcome<Option<History>> {
    if arguments.history.is_none() && !config.history.exists() {
        return Ok(None);
    }
    open(config, arguments).await.map(Some)
}

async fn show(history: &History, JobShowArguments { id, json, .. }: &JobShowArguments) -> Outcome {
    let job = find(history, id).await?;
    if *json { output::json(&job) } else { output::data(timeline::text(&job)) }
}

/// Finds a call by its id, or by the beginning of its id if that is unique.
async fn find(history: &History, id: &str) -> Outcome<Job> {
    if let Some(job) = history.job(id).await? {
        return Ok(job);
    }
    let beginning = crate::history::Filter { id: Some(id.to_owned()), ..Default::default() };
    let mut page = history.jobs(beginning, 2, None).await?;
    match (page.jobs.len(), id.len() >= 6) {
        (1, true) => Ok(page.jobs.remove(0)),
        (2, true) => Err(Failure::failed(format!("several calls have an id that begins with {id}"))),
        _ => {
            let file = history.path().display();
            Err(Failure::failed(format!(
                "the history `{file}` knows no call {id}; `mq-worker explain {id}` asks the broker and the workers too"
            )))
        }
    }
}

async fn relocate(app: &App, arguments: &JobMoveArguments) -> Outcome {
    let JobMoveArguments { id, queue, from, json, history } = arguments;
    let from = match from {
        Some(from) => from.clone(),
        None => queue_of(app, id, history).await?,
    };
    one_message::relocate(app, id, &from, queue).await?;
    match json {
        true => output::json(&serde_json::json!({"id": id, "from": from, "to": queue})),
        false => output::data(format!("{id} moved from `{from}` to `{queue}`")),
    }
}

/// Returns the queue in which a call waits: from the broker if it supports that, else from the history.
async fn queue_of(app: &App, id: &str, history: &HistoryArguments) -> Outcome<String> {
    match app.broker().await?.find(id).await {
        Err(error) if error.is_unsupported() => {}
        found => {
            let found = found?.into_iter().next();
            return found.map(|found| found.queue).ok_or_else(|| {
                Failure::failed(format!("no message of {id} waits; `mq-worker explain {id}` tells why"))
            });
        }
    }
    let job = match open_if_there(app.config(), history).await? {
        Some(history) => history.job(id).await?,
        None => None,
    };
    job.and_then(|job| job.queue).ok_or_else(|| {
        Failure::failed(format!("it is not known in which queue {id} waits: name it with --from"))
    })
}
