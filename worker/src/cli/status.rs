//! `mq-worker status`: shows broker health, running workers and queue lengths.

use std::time::Duration;

use serde::Serialize;

use super::arguments::{CommonArguments, StatusArguments};
use super::exit::{Failure, Outcome, UNAVAILABLE};
use super::queues::PausedQueue;
use super::{operate, output, pause, queues};
use crate::admin::inventory::{self, Gap, Queues};
use crate::app::{App, Pausable, Pause};
use crate::broker::QueueInfo;
use crate::control::{Control, WorkerInfo};
use crate::error::Error;
use crate::routing::Queue;

pub(super) fn run(arguments: StatusArguments, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move { show(&app, arguments).await })
}

/// The complete report.
#[derive(Serialize)]
struct Status {
    broker: BrokerStatus,
    workers: Vec<WorkerInfo>,
    queues: Vec<QueueStatus>,
    /// Delayed messages of all queues together, if they are not counted per queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    delayed: Option<u64>,
    /// The tasks that are paused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    paused_tasks: Vec<Pause>,
    /// Why the list of queues may be incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    queues_left_out: Option<String>,
}

#[derive(Serialize)]
struct BrokerStatus {
    url: String,
    name: &'static str,
    reachable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct QueueStatus {
    #[serde(flatten)]
    info: QueueInfo,
    #[serde(flatten)]
    paused: PausedQueue,
    /// The age of the oldest ready message, if the broker reports it.
    oldest_seconds: Option<f64>,
}

async fn show(app: &App, StatusArguments { timeout, json }: StatusArguments) -> Outcome {
    let broker = app.broker().await?;
    let mut broker_status = BrokerStatus {
        url: app.config().broker_url.to_string(),
        name: broker.capabilities().name,
        reachable: true,
        error: None,
    };
    let answer = match ask(app, timeout).await {
        Ok(answer) => answer,
        Err(failure) => {
            let (code, why) = failure.into_parts();
            broker_status.reachable = code != UNAVAILABLE;
            broker_status.error = Some(why.clone());
            if json {
                let (workers, queues) = (Vec::new(), Vec::new());
                output::json(&Status {
                    broker: broker_status,
                    workers,
                    queues,
                    delayed: None,
                    paused_tasks: Vec::new(),
                    queues_left_out: None,
                })?;
            }
            return Err(Failure::new(code, why));
        }
    };
    let Answer { workers, queues, delayed, paused_tasks, gap, silence } = answer;
    let idle = workers.is_empty();
    let silence = silence.map(|error| Failure::from(error).into_parts());
    broker_status.error = silence.as_ref().map(|(_, why)| why.clone());
    let queues_left_out = gap.map(|gap| gap.text("queues", broker_status.name));
    let status = Status { broker: broker_status, workers, queues, delayed, paused_tasks, queues_left_out };
    if json {
        output::json(&status)?;
    } else {
        print(&status)?;
    }
    if let Some(why) = &status.queues_left_out {
        output::note(why);
    }
    if let Some((code, why)) = silence {
        return Err(Failure::new(code, why));
    }
    let unconsumed: Vec<&str> =
        status.queues.iter().filter(|queue| queue.lacks_consumer()).map(QueueStatus::name).collect();
    if !unconsumed.is_empty() {
        output::note(format!(
            "no worker consumes from these queues with waiting messages: {}",
            unconsumed.join(", ")
        ));
    }
    if idle {
        return Err(Failure::failed(format!("no worker replied on {}", status.broker.url)));
    }
    Ok(())
}

struct Answer {
    workers: Vec<WorkerInfo>,
    queues: Vec<QueueStatus>,
    delayed: Option<u64>,
    paused_tasks: Vec<Pause>,
    gap: Option<Gap>,
    /// Why workers cannot be asked: a broker that is short of memory or disk accepts no requests to them, but still reports
    /// its queue lengths.
    silence: Option<Error>,
}

async fn ask(app: &App, timeout: Option<Duration>) -> Outcome<Answer> {
    let control = Control::new(app.broker().await?).timeout(timeout.unwrap_or(Duration::from_secs(1)));
    // Runs concurrently with the request to the workers, which waits for late replies.
    let paused = tokio::spawn({
        let app = app.clone();
        async move { app.paused().await }
    });
    let workers = control.workers().await;
    let (workers, silence) = match workers {
        Err(error) if error.is_unknown() || error.is_timeout() => (Vec::new(), Some(error)),
        workers => (workers?, None),
    };
    let consumed = workers.iter().flat_map(|worker| &worker.queues);
    let also: Vec<String> =
        consumed.flat_map(|queue| [queue.clone(), Queue::dead_letter_name(queue)]).collect();
    let Queues { queues, delayed } = inventory::queues(app, also).await?;
    let paused = match paused.await.map_err(|_| Failure::failed("the command is stopping"))? {
        // A broker that is short of memory or disk may not answer this either.
        Err(_) if silence.is_some() => Vec::new(),
        paused => paused?,
    };
    let status = |queue: inventory::Found| QueueStatus {
        paused: PausedQueue::of(&queue.info.name, &paused),
        info: queue.info,
        oldest_seconds: queue.oldest.map(|age| age.as_secs_f64()),
    };
    let gap = queues.gap;
    let queues = queues.found.into_iter().map(status).collect();
    let is_task = |pause: &&Pause| matches!(pause.what, Pausable::Task(_));
    let paused_tasks = paused.iter().filter(is_task).cloned().collect();
    Ok(Answer { workers, queues, delayed, paused_tasks, gap, silence })
}

fn print(status: &Status) -> Outcome {
    output::data(format!("{} is reachable ({})", status.broker.url, status.broker.name))?;
    if !status.workers.is_empty() {
        output::data("")?;
        let rows = status.workers.iter().map(worker_row).collect();
        let header = ["worker", "queues", "state", "running", "concurrency", "started", "up"];
        output::table(&header, rows, 3)?;
    }
    if !status.queues.is_empty() {
        output::data("")?;
        let rows = status.queues.iter().map(queue_row).collect();
        output::table(&["queue", "ready", "running", "delayed", "consumers", "oldest", "paused"], rows, 1)?;
    }
    for Pause { what, until } in &status.paused_tasks {
        output::note(format!("{what} is paused until {}", pause::end(*until)));
    }
    if let Some(delayed) = status.delayed.filter(|delayed| *delayed > 0) {
        output::note(format!("delayed, in all queues together: {delayed}"));
    }
    Ok(())
}

fn worker_row(worker: &WorkerInfo) -> Vec<String> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    vec![
        worker.name.clone(),
        output::one_line(&worker.queues.join(","), 60),
        state(worker),
        number(worker.running),
        concurrency(worker),
        number(worker.started),
        worker.uptime.map_or_else(|| "-".into(), |seconds| age(seconds as f64)),
    ]
}

/// The concurrency, with the prefetch if it adapts automatically.
fn concurrency(worker: &WorkerInfo) -> String {
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    match worker.prefetch_auto {
        false => number(worker.concurrency),
        true => format!("{} (prefetch auto: {})", number(worker.concurrency), number(worker.prefetch)),
    }
}

fn state(worker: &WorkerInfo) -> String {
    let state = if worker.stopping { "stopping" } else { "working" };
    let lost = (worker.lost_slots > 0).then(|| format!(", {} lost", worker.lost_slots));
    let settling = (worker.settling > 0).then(|| {
        let since = worker.settling_seconds.map(|seconds| format!(" for {}", age(seconds as f64)));
        let on = worker.settling_waits_for.as_ref().map(|name| format!(", waiting for {name}"));
        format!(", {} settling{}{}", worker.settling, since.unwrap_or_default(), on.unwrap_or_default())
    });
    [Some(state.to_owned()), lost, settling].into_iter().flatten().collect()
}

fn queue_row(queue: &QueueStatus) -> Vec<String> {
    let mut row = queues::row(&queue.info);
    row.push(queue.oldest_seconds.map_or_else(|| "-".into(), age));
    row.push(queue.paused.cell());
    row
}

/// A time span in its two largest units.
fn age(seconds: f64) -> String {
    let duration = Duration::from_secs(seconds.max(0.0) as u64);
    let text = humantime::format_duration(duration).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

impl QueueStatus {
    fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns whether messages wait without a consumer. Dead letters and paused queues need none.
    fn lacks_consumer(&self) -> bool {
        let dead = self.info.name.strip_suffix(&Queue::dead_letter_name("")).is_some();
        self.info.ready > 0 && self.info.consumers == 0 && !dead && !self.paused.is_paused()
    }
}

#[cfg(test)]
mod tests {
    use super::{WorkerInfo, age, concurrency, state};

    #[test]
    fn a_prefetch_is_shown_where_it_changes_by_itself() {
        let fixed = WorkerInfo { concurrency: Some(20), prefetch: Some(1_280), ..WorkerInfo::default() };
        assert_eq!(concurrency(&fixed), "20");
        assert_eq!(concurrency(&WorkerInfo { prefetch_auto: true, ..fixed }), "20 (prefetch auto: 1280)");
        assert_eq!(concurrency(&WorkerInfo::default()), "-");
    }

    #[test]
    fn the_state_tells_what_keeps_a_worker_from_its_messages() {
        let idle = WorkerInfo::default();
        assert_eq!(state(&idle), "working");
        let stuck = WorkerInfo { settling: 2, settling_seconds: Some(70), lost_slots: 1, ..idle };
        assert_eq!(state(&stuck), "working, 1 lost, 2 settling for 1m 10s");
        let stuck = WorkerInfo { settling_waits_for: Some("redis://store/0".into()), ..stuck };
        assert_eq!(state(&stuck), "working, 1 lost, 2 settling for 1m 10s, waiting for redis://store/0");
    }

    #[test]
    fn an_age_is_told_in_two_units() {
        for (seconds, expected) in [(0.4, "0s"), (59.9, "59s"), (61.0, "1m 1s"), (90_061.0, "1day 1h")] {
            assert_eq!(age(seconds), expected);
        }
    }
}
