//! `mq-worker jobs retry`: replays a call from its dead letter, or sends a new one like it.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::open_if_there;
use crate::admin::dead::replay::{Sent, send_back};
use crate::admin::dead::search::{LetterFilter, Search, dead_queue};
use crate::app::{App, AsyncResult};
use crate::canvas::SendOptions;
use crate::cli::arguments::JobRetryArguments;
use crate::cli::exit::{Failure, Outcome, TIME_IS_UP};
use crate::cli::output;
use crate::history::{Job, json_of_literal};

pub(super) async fn retry(app: &App, arguments: JobRetryArguments) -> Outcome {
    let job = match open_if_there(app.config(), &arguments.history).await? {
        Some(history) => history.job(&arguments.id).await?,
        None => None,
    };
    let is_same =
        arguments.with_args.is_none() && arguments.with_kwargs.is_none() && arguments.queue.is_none();
    if is_same && replay(app, &arguments.id, job.as_ref()).await? {
        return match arguments.json {
            true => output::json(&serde_json::json!({"id": arguments.id, "replayed": true})),
            false => output::data(format!("{} replayed from its dead letter", arguments.id)),
        };
    }
    let Some(job) = job else {
        return Err(Failure::failed(format!(
            "nothing was sent: {} has no dead letter, and no history knows it ({} would be looked at; --history names \
             another). `mq-worker call` sends a new call",
            arguments.id,
            app.config().history.display()
        )));
    };
    let id =
        send_again(app, &job, arguments.with_args.map(|args| args.0), arguments.with_kwargs, arguments.queue);
    let id = id.await?;
    match arguments.json {
        true => output::json(&serde_json::json!({"id": id, "retry_of": job.id})),
        false => output::data(id),
    }
}

/// Sends the dead letter of a call back. False if there is none.
async fn replay(app: &App, id: &str, job: Option<&Job>) -> Outcome<bool> {
    let broker = app.broker().await?;
    let queue = match broker.find(id).await {
        Err(error) if error.is_unsupported() => {
            job.and_then(|job| job.queue.clone()).map(|queue| dead_queue(&queue))
        }
        found => found?.into_iter().map(|found| found.queue).find(|queue| queue.ends_with(".dead")),
    };
    let Some(queue) = queue else { return Ok(false) };
    if broker.queues(std::slice::from_ref(&queue)).await?.is_empty() {
        return Ok(false);
    }
    let which = LetterFilter { queue, id: Some(id.to_owned()), ..LetterFilter::default() };
    let mut search = Search::open(app, which, 1, Arc::default()).await?;
    let sent = async {
        let Some(taken) = search.next().await? else { return Ok(None) };
        let sent = send_back(app, &taken.delivery, &search.queue).await;
        match &sent {
            Ok(Sent::Back) => taken.delivery.ack(),
            Ok(Sent::LockedOut { .. }) | Err(_) => search.hold(taken),
        }
        sent.map(Some)
    }
    .await;
    search.release().await;
    match sent? {
        None => Ok(false),
        Some(Sent::Back) => Ok(true),
        Some(Sent::LockedOut { holder }) => Err(Failure::new(
            TIME_IS_UP,
            format!(
                "{id} stays in place: its task is unique, and another call waits or runs, {}",
                holder.as_deref().unwrap_or("whose id is unknown")
            ),
        )),
    }
}

/// Sends a new call of the same task. Arguments that are not given are taken from the history.
async fn send_again(
    app: &App,
    job: &Job,
    args: Option<Box<RawValue>>,
    kwargs: Option<Box<RawValue>>,
    queue: Option<String>,
) -> Outcome<String> {
    let task = job.name.as_deref().ok_or_else(|| {
        Failure::failed(format!(
            "nothing was sent: the history does not know which task {} is of; `mq-worker call` sends a new call",
            job.id
        ))
    })?;
    let args = args.map_or_else(|| kept(job, &job.args, "--with-args '[…]'", "[]"), Ok)?;
    let kwargs = kwargs.map_or_else(|| kept(job, &job.kwargs, "--with-kwargs '{…}'", "{}"), Ok)?;
    let options = SendOptions { queue: queue.or_else(|| job.queue.clone()), ..SendOptions::default() };
    let sent: AsyncResult<Box<RawValue>> = app.send_call(task, &*args, &*kwargs, options).await?;
    Ok(sent.id().to_owned())
}

/// Returns arguments from the history. Those that were cut or hidden must not be sent as if they were complete.
fn kept(job: &Job, text: &Option<String>, flag: &str, none: &str) -> Outcome<Box<RawValue>> {
    let opening = &none[..1];
    let json = match text.as_deref() {
        None if job.args.is_some() || job.kwargs.is_some() => Some(none.to_owned()),
        None => None,
        Some(text) => json_of_literal(text).filter(|json| json.starts_with(opening)),
    };
    let raw = json.and_then(|json| RawValue::from_string(json).ok());
    raw.ok_or_else(|| {
        Failure::failed(format!(
            "nothing was sent: the history does not have all arguments of {} (they were truncated, hidden or not reported); give \
             them with {flag}",
            job.id
        ))
    })
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::history::JobState;

    #[test]
    fn only_arguments_that_are_whole_are_sent_again() {
        let job = |args: Option<&str>| Job {
            args: args.map(ToOwned::to_owned),
            ..Job::sample("a", JobState::Failure, Utc::now())
        };
        let read = |args: Option<&str>| {
            let job = job(args);
            kept(&job, &job.args, "--with-args", "[]").map(|json| json.get().to_owned())
        };
        assert_eq!(read(Some("(2, 'x')")).expect("whole"), "[2,\"x\"]");
        for args in [None, Some("('x..."), Some("'[hidden]'")] {
            let (_, why) = read(args).expect_err("not whole").into_parts();
            assert!(why.contains("does not have all arguments of a"), "{why}");
        }
    }
}
