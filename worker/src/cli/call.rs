//! `mq-worker call TASK`: sends a call, and waits for its result if asked.

use serde_json::value::RawValue;

use super::arguments::{CallArguments, CommonArguments};
use super::exit::Outcome;
use super::{operate, output, result};
use crate::app::{App, AsyncResult};
use crate::canvas::SendOptions;
use crate::routing::router::Wanted;

pub(super) fn run(arguments: CallArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { call(&app, arguments).await })
}

async fn call(app: &App, arguments: CallArguments) -> Outcome {
    operate::must_exist(&app.config().effective_result_backend())?;
    let CallArguments { task, args, kwargs, queue, countdown, wait } = arguments;
    if queue.is_none() {
        warn_of_default_queue(app, &task);
    }
    // A reply goes to the process that asked: when it does not wait, nobody would ever read it.
    let nobody_waits = wait.is_none() && result::travels_to_the_caller(app);
    let options = SendOptions {
        queue,
        countdown,
        ignore_result: nobody_waits.then_some(true),
        ..SendOptions::default()
    };
    let job: AsyncResult<Box<RawValue>> = app.send_call(&task, &*args.0, &*kwargs, options).await?;
    let Some(limit) = wait else { return output::data(job.id()) };
    output::note(format!("task id {}", job.id()));
    let record = result::wait(app, job.id(), limit).await?;
    result::show(&record)
}

/// Operating commands have no tasks, so they cannot know which queue a task's attribute names.
fn warn_of_default_queue(app: &App, task: &str) {
    if app.registry().get(task).is_some() {
        return;
    }
    let with_rules = app.router().route(task, Some(""), Wanted::default());
    if with_rules.queue.as_deref() == Some("") {
        let queue = app.router().default_queue();
        output::note(format!(
            "note: task `{task}` is not known here: it goes to queue `{queue}`; --queue names another"
        ));
    }
}
