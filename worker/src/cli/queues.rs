//! `mq-worker queues`: how full the queues are.

use std::collections::BTreeSet;

use super::arguments::{CommonArguments, QueuesArguments};
use super::exit::{Failure, Outcome};
use super::{operate, output};
use crate::app::App;
use crate::broker::QueueInfo;
use crate::control::mailbox;
use crate::routing::Queue;
use crate::routing::router::Wanted;

pub(super) fn run(arguments: QueuesArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, QueuesArguments { names, json }: QueuesArguments) -> Outcome {
    let broker = app.broker().await?;
    let asked =
        if names.is_empty() && !broker.capabilities().lists_queues { known(app) } else { names.clone() };
    let mut queues = broker.queues(&asked).await?;
    // Mailboxes come and go with every worker and every question to them.
    queues.retain(|queue| !mailbox::is_mailbox(&queue.name) || names.contains(&queue.name));
    queues.sort_by(|a, b| a.name.cmp(&b.name));
    if json {
        output::json(&queues)?;
    } else if !queues.is_empty() {
        let rows = queues.iter().map(row).collect();
        output::table(&["queue", "ready", "running", "delayed", "consumers"], rows, 1)?;
    }
    let missing: Vec<&str> =
        names.iter().filter(|name| queues.iter().all(|q| q.name != **name)).map(String::as_str).collect();
    if !missing.is_empty() {
        let url = &app.config().broker_url;
        return Err(Failure::failed(format!("not found on {url}: {}", missing.join(", "))));
    }
    if queues.is_empty() {
        output::note(format!("no queues on {}", app.config().broker_url));
    } else if asked.len() > names.len() {
        output::note("this broker cannot list its queues: name others that you want to see");
    }
    Ok(())
}

pub(super) fn row(queue: &QueueInfo) -> Vec<String> {
    // What a broker cannot tell is a dash, not a zero.
    let told = |count: Option<u64>| count.map_or_else(|| "-".into(), |count| count.to_string());
    let QueueInfo { name, ready, running, delayed, consumers } = queue;
    vec![name.clone(), ready.to_string(), told(*running), told(*delayed), consumers.to_string()]
}

/// The queues that configuration and tasks name, with their dead-letter queues.
pub(super) fn known(app: &App) -> Vec<String> {
    let config = app.config();
    let mut names: BTreeSet<String> = BTreeSet::from([config.default_queue.clone()]);
    names.extend(config.worker.queues.iter().cloned());
    names.extend(config.topology.queues.iter().map(|queue| queue.name.clone()));
    names.extend(config.routes.iter().filter_map(|rule| rule.queue.clone()));
    names.extend(
        app.registry()
            .iter()
            .filter_map(|task| app.router().route(task.name, task.options.queue, Wanted::default()).queue),
    );
    let dead: Vec<String> = names.iter().map(|name| Queue::dead_letter_name(name)).collect();
    names.extend(dead);
    names.into_iter().collect()
}
