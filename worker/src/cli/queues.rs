//! `mq-worker queues`: shows the lengths of queues.

use chrono::SecondsFormat;
use serde::Serialize;

use super::arguments::{CommonArguments, QueuesArguments};
use super::exit::{Failure, Outcome};
use super::{operate, output};
use crate::admin::inventory::{self, Inventory, Queues};
use crate::app::{App, Pausable, Pause};
use crate::broker::QueueInfo;

pub(super) fn run(arguments: QueuesArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

async fn show(app: &App, QueuesArguments { names, json }: QueuesArguments) -> Outcome {
    let broker = app.broker().await?;
    let url = &app.config().broker_url;
    if !names.is_empty() {
        let (mut queues, paused) = tokio::try_join!(broker.queues(&names), app.paused())?;
        queues.sort_by(|a, b| a.name.cmp(&b.name));
        let is_missing = |name: &&String| queues.iter().all(|queue| queue.name != **name);
        let missing: Vec<&str> = names.iter().filter(is_missing).map(String::as_str).collect();
        print(listed(queues.iter().cloned(), &paused), json)?;
        return match missing.as_slice() {
            [] => Ok(()),
            missing => Err(Failure::failed(format!("not found on {url}: {}", missing.join(", ")))),
        };
    }
    let paused = async { Ok(app.paused().await?) };
    let (queues, paused) = tokio::try_join!(inventory::queues(app, []), paused)?;
    let Queues { queues: Inventory { found, gap }, delayed } = queues;
    let queues = listed(found.into_iter().map(|queue| queue.info), &paused);
    let is_empty = queues.is_empty();
    print(queues, json)?;
    if let Some(delayed) = delayed.filter(|delayed| *delayed > 0) {
        output::note(format!("delayed, in all queues together: {delayed}"));
    }
    match gap {
        Some(gap) => {
            output::note(gap.end("queues", broker.capabilities().name, is_empty)?);
            Ok(())
        }
        None => {
            if is_empty {
                output::note(format!("no queues on {url}"));
            }
            Ok(())
        }
    }
}

/// A queue as it is listed.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    info: QueueInfo,
    #[serde(flatten)]
    paused: PausedQueue,
}

/// Whether a queue is paused.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct PausedQueue {
    paused: bool,
    /// When the pause ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused_until: Option<String>,
}

impl PausedQueue {
    pub(super) fn of(queue: &str, paused: &[Pause]) -> Self {
        let pause = paused.iter().find(|pause| matches!(&pause.what, Pausable::Queue(name) if name == queue));
        let until = pause.and_then(|pause| pause.until);
        let paused_until = until.map(|until| until.to_rfc3339_opts(SecondsFormat::Secs, true));
        Self { paused: pause.is_some(), paused_until }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Its cell in a table.
    pub(super) fn cell(&self) -> String {
        match &self.paused_until {
            Some(until) => format!("until {until}"),
            None => if self.paused { "yes" } else { "-" }.into(),
        }
    }
}

fn listed(queues: impl Iterator<Item = QueueInfo>, paused: &[Pause]) -> Vec<Listed> {
    queues.map(|info| Listed { paused: PausedQueue::of(&info.name, paused), info }).collect()
}

fn print(queues: Vec<Listed>, json: bool) -> Outcome {
    if json {
        return output::json(&queues);
    }
    if queues.is_empty() {
        return Ok(());
    }
    let row = |queue: &Listed| {
        let mut row = row(&queue.info);
        row.push(queue.paused.cell());
        row
    };
    let header = ["queue", "ready", "running", "delayed", "consumers", "paused"];
    output::table(&header, queues.iter().map(row).collect(), 1)
}

pub(super) fn row(queue: &QueueInfo) -> Vec<String> {
    // A count that the broker does not report is a dash, not a zero.
    let cell = |count: Option<u64>| count.map_or_else(|| "-".into(), |count| count.to_string());
    let QueueInfo { name, ready, running, delayed, consumers } = queue;
    vec![name.clone(), ready.to_string(), cell(*running), cell(*delayed), consumers.to_string()]
}
