//! `mq-worker result ID`: shows the result of a call.

use std::time::Duration;

use super::arguments::{CommonArguments, ResultArguments};
use super::exit::{FAILED, Failure, Outcome, TIME_IS_UP};
use super::follow::{self, Piped};
use super::{operate, output};
use crate::app::App;
use crate::backend::ResultRecord;
use crate::broker::Register;
use crate::control::{Control, FoundCalls, Running};
use crate::state::State;

/// How long `--wait` waits by default.
const WAIT: Duration = Duration::from_secs(60);

pub(super) fn run(arguments: ResultArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { find(&app, arguments).await })
}

async fn find(app: &App, ResultArguments { id, wait: limit, follow, json }: ResultArguments) -> Outcome {
    if is_sent_to_caller_only(app) {
        // Best effort: the advice below is the same if the broker cannot be reached.
        let looked = tokio::time::timeout(Duration::from_secs(3), look_for(app, &id)).await;
        let seen = looked.ok().and_then(Outcome::ok).unwrap_or_default();
        let kept = Failure::usage(
            "results over rpc:// are only sent to the process that sent the call: use `mq-worker call … --wait`, or set a \
             result backend that everyone can read for callers and workers alike: --result-backend redis://HOST, \
             postgres://HOST/DB, or on one machine sqlite:results.db",
        );
        return Err(match seen.running.get(&id) {
            Some(running) => Failure::new(TIME_IS_UP, format!("task {id} {}", on(running))),
            None => kept,
        });
    }
    operate::must_exist(&app.config().effective_result_backend())?;
    let record = match limit {
        None if follow => Some(follow::until_ready(app, &id, Piped::Lines).await?),
        Some(limit) => {
            let piped = if follow { Piped::Lines } else { Piped::Nothing };
            Some(wait(app, &id, limit, piped).await?)
        }
        None => app.backend().await?.fetch(&id).await?,
    };
    let mut record = record.unwrap_or_else(|| ResultRecord::new(&*id, State::Pending));
    let mut said = None;
    if record.state == State::Pending {
        let seen = look_for(app, &id).await?;
        if seen.running.contains_key(&id) {
            record.state = State::Started;
        }
        said = Some(without_result(app, &id, &seen).await);
    }
    if json {
        output::data(String::from_utf8_lossy(&record.to_json()))?;
        return code(&record).map_or(Ok(()), |code| Err(Failure::silent(code)));
    }
    said.map_or_else(|| show(&record), |said| Err(Failure::new(TIME_IS_UP, said)))
}

/// Asks the workers whether they run a call. Finds nothing if the broker accepts no requests.
pub(super) async fn look_for(app: &App, id: &str) -> Outcome<FoundCalls> {
    let control = Control::new(app.broker().await?);
    match control.find(&[id.to_owned()]).await {
        Err(error) if error.is_unknown() || error.is_timeout() => Ok(FoundCalls::default()),
        seen => Ok(seen?),
    }
}

/// Describes a call that has no result.
async fn without_result(app: &App, id: &str, seen: &FoundCalls) -> String {
    if let Some(running) = seen.running.get(id) {
        return format!("task {id} {}", on(running));
    }
    let is_revoked =
        async { app.broker().await?.is_noted(Register::Revoked, id, Register::Revoked.max_lifetime()).await };
    if is_revoked.await.unwrap_or(false) {
        return format!("task {id} is revoked and has no result: no worker has received its message since");
    }
    let workers = match seen.workers {
        0 => "no worker replied".to_owned(),
        1 => "the only worker that replied does not run it".to_owned(),
        many => format!("none of the {many} workers that replied runs it"),
    };
    let known = async { app.result::<()>(id).await?.is_known().await };
    let where_it_is = match known.await {
        Ok(Some(true)) => "it waits in a queue",
        Ok(Some(false)) => "no such call was sent, or its result has expired",
        _ => "it waits in a queue, its result has expired, or no such call was sent",
    };
    format!("task {id} has no result, and {workers}: {where_it_is}")
}

/// Describes a running call: `is running on w@h, for 12s`.
pub(super) fn on(running: &Running) -> String {
    let now = chrono::Utc::now().timestamp_micros() as f64 / 1e6;
    let since = running.since.map(|since| Duration::try_from_secs_f64(now - since).unwrap_or_default());
    let since = since.map_or_else(String::new, |since| {
        format!(", for {}", humantime::format_duration(Duration::from_secs(since.as_secs())))
    });
    format!("is running on {}{since}", running.worker)
}

/// Returns whether results are sent to the caller only, as with RabbitMQ's `rpc://`, and not stored.
pub(super) fn is_sent_to_caller_only(app: &App) -> bool {
    matches!(app.config().effective_result_backend().scheme().as_str(), "rpc" | "amqp" | "amqps")
}

/// Waits until the result of a call is ready, at most for `limit`, or else for [`WAIT`].
pub(super) async fn wait(
    app: &App,
    id: &str,
    limit: Option<Duration>,
    piped: Piped,
) -> Outcome<ResultRecord> {
    let limit = limit.unwrap_or(WAIT);
    match tokio::time::timeout(limit, follow::until_ready(app, id, piped)).await {
        Ok(record) => record,
        Err(_) => {
            let seen = look_for(app, id).await.unwrap_or_default();
            let known = match seen.running.get(id) {
                Some(running) => format!("it {}", on(running)),
                None if seen.workers == 0 => "no worker replied".into(),
                None => "no worker runs it now".into(),
            };
            let limit = humantime::format_duration(limit);
            Err(Failure::new(
                TIME_IS_UP,
                format!("no result of task {id} within {limit}: {known}; use --wait DURATION to wait longer"),
            ))
        }
    }
}

/// The exit code for the state of a task; `None` for success.
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
        State::Retry => format!("task {task_id} is not ready: it failed and will be retried{why}"),
        other => format!("task {task_id} is not ready: {other}"),
    };
    Err(Failure::new(code, said))
}
