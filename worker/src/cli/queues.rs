//! `mq-worker queues`: how full the queues are.

use super::arguments::{CommonArguments, QueuesArguments};
use super::exit::{Failure, Outcome};
use super::{operate, output};
use crate::admin::inventory::{self, Inventory, Queues};
use crate::app::App;
use crate::broker::QueueInfo;

pub(super) fn run(arguments: QueuesArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, QueuesArguments { names, json }: QueuesArguments) -> Outcome {
    let broker = app.broker().await?;
    let url = &app.config().broker_url;
    if !names.is_empty() {
        let mut queues = broker.queues(&names).await?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        print(&queues, json)?;
        let is_missing = |name: &&String| queues.iter().all(|queue| queue.name != **name);
        let missing: Vec<&str> = names.iter().filter(is_missing).map(String::as_str).collect();
        return match missing.as_slice() {
            [] => Ok(()),
            missing => Err(Failure::failed(format!("not found on {url}: {}", missing.join(", ")))),
        };
    }
    let Queues { queues: Inventory { found, gap }, delayed } = inventory::queues(app, []).await?;
    let queues: Vec<QueueInfo> = found.into_iter().map(|queue| queue.info).collect();
    print(&queues, json)?;
    if let Some(delayed) = delayed.filter(|delayed| *delayed > 0) {
        output::note(format!("delayed, in all queues together: {delayed}"));
    }
    match gap {
        Some(gap) => {
            output::note(gap.end("queues", broker.capabilities().name, queues.is_empty())?);
            Ok(())
        }
        None => {
            if queues.is_empty() {
                output::note(format!("no queues on {url}"));
            }
            Ok(())
        }
    }
}

fn print(queues: &[QueueInfo], json: bool) -> Outcome {
    if json {
        return output::json(&queues);
    }
    if queues.is_empty() {
        return Ok(());
    }
    output::table(&["queue", "ready", "running", "delayed", "consumers"], queues.iter().map(row).collect(), 1)
}

pub(super) fn row(queue: &QueueInfo) -> Vec<String> {
    // What a broker cannot tell is a dash, not a zero.
    let told = |count: Option<u64>| count.map_or_else(|| "-".into(), |count| count.to_string());
    let QueueInfo { name, ready, running, delayed, consumers } = queue;
    vec![name.clone(), ready.to_string(), told(*running), told(*delayed), consumers.to_string()]
}
