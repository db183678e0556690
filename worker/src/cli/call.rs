//! `mq-worker call TASK`: sends a call, and waits for its result if asked.

use std::collections::BTreeSet;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::arguments::{CallArguments, CommonArguments, PackageArguments};
use super::exit::{Failure, Outcome};
use super::follow::Piped;
use super::{operate, output, result, shim};
use crate::app::{App, AsyncResult};
use crate::canvas::SendOptions;
use crate::control::{Control, Reply};
use crate::routing::router::Wanted;

pub(super) fn run(arguments: CallArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { call(&app, arguments).await })
}

async fn call(app: &App, arguments: CallArguments) -> Outcome {
    operate::must_exist(&app.config().effective_result_backend())?;
    let CallArguments { task, args, kwargs, queue, countdown, wait, package } = arguments;
    let queue = match queue {
        Some(queue) => Some(queue),
        None => {
            let way = find(app, &task, package).await?;
            way.check(app, &task, wait.is_some()).await?;
            way.queue
        }
    };
    // The result would be sent to this process only: if it does not wait, the result would never be read.
    let ignores_result = wait.is_none() && result::is_sent_to_caller_only(app);
    let options = SendOptions {
        queue,
        countdown,
        ignore_result: ignores_result.then_some(true),
        ..SendOptions::default()
    };
    let job: AsyncResult<Box<RawValue>> = app.send_call(&task, &*args.0, &*kwargs, options).await?;
    let Some(limit) = wait else { return output::data(job.id()) };
    output::note(format!("task id {}", job.id()));
    let record = result::wait(app, job.id(), limit, Piped::Nothing).await?;
    result::show(&record)
}

/// The destination of a call without `--queue`.
struct Destination {
    /// The queue to name when sending, if the routes do not determine it.
    queue: Option<String>,
    /// The queue where the call will arrive; `None` if it goes to an exchange.
    arrives_in: Option<String>,
    /// The source of this information; `None` for the default queue of an unknown task.
    source: Option<&'static str>,
}

/// Looks in the routes and tasks of this program, then in the crate in this directory, then asks the workers.
async fn find(app: &App, task: &str, package: PackageArguments) -> Outcome<Destination> {
    let routed = app.router().route(task, Some(""), Wanted::default());
    let own = app.registry().get(task);
    if own.is_some() || routed.queue.as_deref() != Some("") {
        let queue = own.and_then(|task| task.options.queue);
        let route = app.router().route(task, queue, Wanted::default());
        return Ok(Destination { queue: None, arrives_in: route.queue, source: Some("the routes") });
    }
    let to = |queue: String, source| Destination {
        queue: Some(queue.clone()),
        arrives_in: Some(queue),
        source: Some(source),
    };
    let known = tokio::task::spawn_blocking(move || shim::queues_of_tasks(&package)).await;
    if let Some(queue) = known.ok().flatten().and_then(|mut tasks| tasks.remove(task)) {
        return Ok(to(queue, "the crate"));
    }
    if let Some(queue) = of_workers(app, task).await? {
        return Ok(to(queue, "the workers"));
    }
    let default = app.router().default_queue().to_owned();
    Ok(Destination { queue: None, arrives_in: Some(default), source: None })
}

impl Destination {
    /// Notes where a call of an unknown task goes. With `--wait`, fails if its queue has no worker.
    async fn check(&self, app: &App, task: &str, waits: bool) -> Outcome {
        let Some(queue) = &self.arrives_in else { return Ok(()) };
        if self.source.is_none() {
            output::note(format!(
                "note: task `{task}` is not known here: sending it to queue `{queue}`; use --queue to choose another"
            ));
        }
        if !waits {
            return Ok(());
        }
        let found = app.broker().await?.queues(std::slice::from_ref(queue)).await?;
        if found.iter().any(|found| found.consumers > 0) {
            return Ok(());
        }
        let who = match self.source {
            Some(source) => format!("task `{task}` goes to queue `{queue}` according to {source}"),
            None => format!(
                "no worker knows task `{task}`, nor does the crate in this directory as it was built last (`mq-worker \
                 tasks` builds it)"
            ),
        };
        Err(Failure::failed(format!(
            "nothing was sent: {who}, and `{queue}` has no worker; start one, send without --wait, or name the \
             queue with --queue"
        )))
    }
}

/// The queue from which running workers take a task, if they agree on one.
async fn of_workers(app: &App, task: &str) -> Outcome<Option<String>> {
    let control = Control::new(app.broker().await?);
    let items = Map::from_iter([("taskinfoitems".to_owned(), Value::from(vec!["queue"]))]);
    let asked = futures_util::future::try_join(
        control.ask("registered", items),
        control.ask("active_queues", Map::new()),
    );
    let (registered, consumed) = match asked.await {
        Err(error) if error.is_unknown() || error.is_timeout() => return Ok(None),
        answers => answers?,
    };
    let queues: BTreeSet<String> =
        registered.iter().flat_map(|reply| queues_of(task, reply, &consumed)).collect();
    let default = app.router().default_queue();
    match queues.len() {
        0 => Ok(None),
        1 => Ok(queues.into_iter().next()),
        _ if queues.contains(default) => Ok(Some(default.to_owned())),
        _ => Err(Failure::usage(format!(
            "nothing was sent: the workers that know task `{task}` work on several queues, name one with --queue: {}",
            queues.into_iter().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// Returns the queue that a worker names for a task, else all queues that it consumes from; none if it does not know
/// the task. The reply is a list of `name [queue=email]`.
fn queues_of(task: &str, registered: &Reply, consumed: &[Reply]) -> Vec<String> {
    let lines = registered.value.as_array().map_or(&[][..], Vec::as_slice);
    let facts = lines.iter().filter_map(Value::as_str).find_map(|line| match line.strip_prefix(task)? {
        "" => Some(""),
        rest => rest.strip_prefix(" [")?.strip_suffix(']'),
    });
    let Some(facts) = facts else { return Vec::new() };
    if let Some(queue) = facts.strip_prefix("queue=") {
        return vec![queue.to_owned()];
    }
    let of_node = consumed.iter().filter(|reply| reply.node == registered.node);
    of_node
        .filter_map(|reply| reply.value.as_array())
        .flatten()
        .filter_map(|queue| Some(queue.get("name")?.as_str()?.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_worker_tells_the_queue_of_a_task() {
        let reply = |value| Reply { node: "w@h".into(), value };
        let consumed = [reply(json!([{"name": "a"}, {"name": "b"}]))];
        let registered = reply(json!(["add", "mul [queue=math]", "address"]));
        assert_eq!(queues_of("add", &registered, &consumed), ["a", "b"]);
        assert_eq!(queues_of("mul", &registered, &consumed), ["math"]);
        assert_eq!(queues_of("addr", &registered, &consumed), Vec::<String>::new());
        assert_eq!(queues_of("add", &reply(json!({"error": "x"})), &consumed), Vec::<String>::new());
    }
}
