//! `mq-worker result ID`: what became of a call.

use std::time::Duration;

use super::arguments::{CommonArguments, ResultArguments};
use super::exit::{FAILED, Failure, Outcome, TIME_IS_UP};
use super::{operate, output};
use crate::app::App;
use crate::backend::ResultRecord;
use crate::state::State;

pub(super) fn run(arguments: ResultArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { find(&app, arguments).await })
}

async fn find(app: &App, ResultArguments { id, wait: limit, json }: ResultArguments) -> Outcome {
    if travels_to_the_caller(app) {
        return Err(Failure::usage(
            "results over rpc:// go only to the process that sent the call: use `mq-worker call … --wait`, or a \
             result backend that keeps them, such as --result-backend sqlite:results.db",
        ));
    }
    operate::must_exist(&app.config().effective_result_backend())?;
    let record = match limit {
        Some(limit) => wait(app, &id, limit).await?,
        None => app.backend().await?.fetch(&id).await?.unwrap_or_else(|| ResultRecord {
            task_id: id.clone(),
            state: State::Pending,
            value: None,
            failure: None,
            done_at: None,
        }),
    };
    if !json {
        return show(&record);
    }
    output::data(String::from_utf8_lossy(&record.to_json()))?;
    code(&record).map_or(Ok(()), |code| Err(Failure::silent(code)))
}

/// True when results are messages to the sender, as RabbitMQ's `rpc://`, and are not kept for others.
pub(super) fn travels_to_the_caller(app: &App) -> bool {
    matches!(app.config().effective_result_backend().scheme().as_str(), "rpc" | "amqp" | "amqps")
}

/// Waits until a task is ready, for as long as `limit` says.
pub(super) async fn wait(app: &App, id: &str, limit: Option<Duration>) -> Outcome<ResultRecord> {
    let backend = app.backend().await?;
    let ready = backend.wait(id);
    let Some(limit) = limit else { return Ok(ready.await?) };
    match tokio::time::timeout(limit, ready).await {
        Ok(record) => Ok(record?),
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Err(Failure::new(TIME_IS_UP, format!("no result of task {id} within {limit}")))
        }
    }
}

/// The exit code that tells what became of a task, where that is not success.
fn code(record: &ResultRecord) -> Option<u8> {
    match record.state {
        State::Success => None,
        State::Failure | State::Revoked => Some(FAILED),
        _ => Some(TIME_IS_UP),
    }
}

/// Prints the value, or says why there is none.
pub(super) fn show(record: &ResultRecord) -> Outcome {
    let Some(code) = code(record) else {
        return output::data(record.value.as_ref().map_or("null", |value| value.get()));
    };
    let ResultRecord { task_id, state, failure, .. } = record;
    let why = failure.as_ref().map_or(String::new(), |failure| format!(": {failure}"));
    let trace =
        failure.as_ref().and_then(|failure| failure.traceback.as_deref()).filter(|trace| !trace.is_empty());
    if let Some(trace) = trace {
        output::note(trace.trim_end());
    }
    let said = match state {
        State::Failure => format!("task {task_id} failed{why}"),
        State::Revoked => format!("task {task_id} was revoked{why}"),
        State::Pending => format!("task {task_id} is not ready: it waits, or there never was one"),
        State::Retry => format!("task {task_id} is not ready: it failed and will be tried again{why}"),
        other => format!("task {task_id} is not ready: {other}"),
    };
    Err(Failure::new(code, said))
}
