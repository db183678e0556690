//! The state of broker and workers at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::try_join4;
use serde::Serialize;
use serde_json::{Map, Value};

use super::problem::Problem;
use crate::admin::inventory::{self, Queues};
use crate::app::{App, Pausable, Pause, ScheduleInfo};
use crate::broker::Broker;
use crate::control::inspect::describe;
use crate::control::{Control, Registered, Reply, WorkerInfo};
use crate::error::Result;
use crate::routing::Queue;

/// How long workers have to reply.
const REPLY_TIMEOUT: Duration = Duration::from_millis(700);

/// Timeout for a request to the workers and its replies: a broker with an alarm accepts no requests.
const ASKING: Duration = Duration::from_secs(3);

/// Broker and workers at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) at: DateTime<Utc>,
    pub(crate) broker: BrokerView,
    pub(crate) queues: Vec<QueueView>,
    /// Delayed messages of all queues together, if they are not counted per queue.
    pub(crate) delayed: Option<u64>,
    /// Why the list of queues may be incomplete.
    pub(crate) queues_left_out: Option<String>,
    pub(crate) workers: Vec<WorkerView>,
    /// The tasks registered by the workers, if any replied.
    #[serde(skip)]
    pub(crate) registered: Option<Registered>,
    /// Paused queues and tasks.
    pub(crate) paused: Vec<Pause>,
    /// Why RabbitMQ's management API does not answer, if its address is configured.
    pub(crate) management_error: Option<String>,
    /// Why the history is not being filled, if so.
    pub(crate) history_error: Option<String>,
    pub(crate) problems: Vec<Problem>,
}

/// The broker.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct BrokerView {
    pub(crate) name: &'static str,
    /// Without the password.
    pub(crate) url: String,
    /// Why it cannot be reached, if it cannot.
    pub(crate) error: Option<String>,
    /// Since when it cannot be reached.
    pub(crate) away_since: Option<DateTime<Utc>>,
}

/// A queue with its dead-letter queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct QueueView {
    pub(crate) name: String,
    pub(crate) ready: u64,
    pub(crate) running: Option<u64>,
    pub(crate) delayed: Option<u64>,
    pub(crate) consumers: u64,
    /// The age of the oldest ready message, where the broker reports it.
    pub(crate) oldest_seconds: Option<f64>,
    /// The length of its dead-letter queue, if it has one.
    pub(crate) dead: Option<u64>,
    /// The workers that consume from it.
    pub(crate) workers: Vec<String>,
    /// Its pause, if it is paused.
    pub(crate) pause: Option<Pause>,
    /// True for a dead-letter queue whose own queue does not exist.
    pub(crate) is_dead_letter_queue: bool,
}

/// A worker and its running tasks.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct WorkerView {
    #[serde(flatten)]
    pub(crate) info: WorkerInfo,
    /// Such as `mq-worker 0.1.0`.
    pub(crate) software: Option<String>,
    /// Its peak resident memory.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) tasks: Vec<RunningView>,
}

/// A running task.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RunningView {
    pub(crate) id: String,
    pub(crate) task: String,
    pub(crate) queue: Option<String>,
    /// When it started, in seconds since 1970.
    pub(crate) since: Option<f64>,
    #[serde(skip)]
    pub(crate) args: Value,
    #[serde(skip)]
    pub(crate) kwargs: Value,
}

impl Snapshot {
    /// Takes a snapshot. If the broker cannot be reached, returns that error with the data of the `last` one.
    pub(crate) async fn take(app: &App, last: &Self) -> Self {
        let at = Utc::now();
        let url = app.config().broker_url.to_string();
        match look(app, last).await {
            Ok(found) => {
                let broker = BrokerView { url, ..found.broker };
                Self { at, broker, ..found }
            }
            Err(error) => last.without_broker(error),
        }
    }

    /// The initial snapshot, before the broker was reached.
    pub(crate) fn unseen(app: &App) -> Self {
        let url = app.config().broker_url.to_string();
        Self { broker: BrokerView { name: name(app), url, ..BrokerView::default() }, ..Self::default() }
    }

    /// Returns this snapshot with the broker marked as unreachable.
    pub(crate) fn without_broker(&self, error: String) -> Self {
        let at = Utc::now();
        let away_since = self.broker.away_since.or(Some(at));
        let broker = BrokerView { error: Some(error), away_since, ..self.broker.clone() };
        Self { at, broker, ..self.clone() }
    }

    /// A queue by its name.
    pub(crate) fn queue(&self, name: &str) -> Option<&QueueView> {
        self.queues.iter().find(|queue| queue.name == name)
    }

    /// Marks the schedules whose task no worker has.
    pub(crate) fn mark(&self, schedules: &mut [ScheduleInfo]) {
        schedules.iter_mut().for_each(|info| info.mark(self.registered.as_ref()));
    }

    /// A worker by its name.
    pub(crate) fn worker(&self, name: &str) -> Option<&WorkerView> {
        self.workers.iter().find(|worker| worker.info.name == name)
    }
}

/// Returns the broker's name from its URL, as it may not have been reached yet.
fn name(app: &App) -> &'static str {
    match app.config().broker_url.scheme().as_str() {
        "amqp" | "amqps" => "RabbitMQ",
        "sqlite" => "SQLite",
        _ => "The broker",
    }
}

async fn look(app: &App, last: &Snapshot) -> std::result::Result<Snapshot, String> {
    let broker = app.broker().await.map_err(|error| format!("{error:#}"))?;
    let ((workers, registered), silence) = match replies(app, &*broker).await {
        Ok(found) => (found, None),
        Err(error) => ((last.workers.clone(), last.registered.clone()), Some(error)),
    };
    let consumed = workers.iter().flat_map(|worker| &worker.info.queues);
    let also: Vec<String> =
        consumed.flat_map(|queue| [queue.clone(), Queue::dead_letter_name(queue)]).collect();
    let Queues { queues, delayed } =
        inventory::queues(app, also).await.map_err(|failure| failure.into_parts().1)?;
    let paused = app.paused().await.map_err(|error| format!("{error:#}"))?;
    let name = broker.capabilities().name;
    let broker = BrokerView { name, error: silence, ..BrokerView::default() };
    Ok(Snapshot {
        broker,
        management_error: queues.gap.as_ref().and_then(|gap| gap.mistake().map(ToOwned::to_owned)),
        queues_left_out: queues.gap.map(|gap| gap.text("queues", name)),
        queues: paired(queues.found, &workers, &paused),
        delayed,
        workers,
        registered,
        paused,
        ..Snapshot::default()
    })
}

type Seen = (Vec<WorkerView>, Option<Registered>);

/// The workers that reply, or why they cannot be asked.
async fn replies(app: &App, broker: &dyn Broker) -> std::result::Result<Seen, String> {
    let alarm =
        || broker.alarm().map(|reason| format!("it is {reason}; senders are blocked until it recovers"));
    if let Some(alarm) = alarm() {
        return Err(alarm);
    }
    match tokio::time::timeout(ASKING, workers(app)).await {
        Ok(Ok(seen)) => Ok(seen),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(alarm().unwrap_or_else(|| {
            format!("a question to workers was not sent within {} seconds", ASKING.as_secs())
        })),
    }
}

/// The workers that reply, with their running tasks, and the tasks that they have registered.
async fn workers(app: &App) -> Result<Seen> {
    let control = Control::new(app.broker().await?).timeout(REPLY_TIMEOUT);
    let none = Map::new;
    let asked = try_join4(
        control.ask("stats", none()),
        control.ask("active_queues", none()),
        control.ask("active", none()),
        control.ask("registered", none()),
    );
    let (stats, queues, active, registered) = asked.await?;
    let mut workers: Vec<WorkerView> = stats.iter().map(|stats| view(stats, &queues, &active)).collect();
    workers.sort_by(|a, b| a.info.cmp(&b.info));
    Ok((workers, Registered::of(&registered)))
}

fn view(stats: &Reply, queues: &[Reply], active: &[Reply]) -> WorkerView {
    let text = |key: &str| stats.value.get(key).and_then(Value::as_str);
    let running = active.iter().filter(|reply| reply.node == stats.node);
    let tasks = running.filter_map(|reply| reply.value.as_array()).flatten().map(|task| {
        let text = |key: &str| task.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let delivery = task.get("delivery_info");
        let queue = delivery.and_then(|info| info.get("queue").or(info.get("routing_key"))?.as_str());
        RunningView {
            id: text("id"),
            task: text("name"),
            queue: queue.map(ToOwned::to_owned),
            since: task.get("time_start").and_then(Value::as_f64),
            args: task.get("args").cloned().unwrap_or_default(),
            kwargs: task.get("kwargs").cloned().unwrap_or_default(),
        }
    });
    let memory = stats.value.get("rusage").and_then(|usage| usage.get("maxrss")?.as_u64());
    WorkerView {
        info: describe(stats, queues, active),
        software: text("sw_ident").map(|name| format!("{name} {}", text("sw_ver").unwrap_or_default())),
        memory_bytes: memory.map(|kib| kib.saturating_mul(1024)),
        tasks: tasks.collect(),
    }
}

/// Each queue together with its dead-letter queue.
fn paired(found: Vec<inventory::Found>, workers: &[WorkerView], paused: &[Pause]) -> Vec<QueueView> {
    let lengths: BTreeMap<String, u64> =
        found.iter().map(|queue| (queue.info.name.clone(), queue.info.ready)).collect();
    let pause_of = |name: &str| {
        paused.iter().find(|pause| matches!(&pause.what, Pausable::Queue(queue) if queue == name)).cloned()
    };
    let is_dead = |name: &str| name.strip_suffix(DEAD).is_some_and(|of| lengths.contains_key(of));
    let view = |queue: inventory::Found| QueueView {
        ready: queue.info.ready,
        running: queue.info.running,
        delayed: queue.info.delayed,
        consumers: queue.info.consumers,
        oldest_seconds: queue.oldest.map(|age| age.as_secs_f64()),
        dead: lengths.get(&Queue::dead_letter_name(&queue.info.name)).copied(),
        workers: workers
            .iter()
            .filter(|worker| worker.info.queues.contains(&queue.info.name))
            .map(|worker| worker.info.name.clone())
            .collect(),
        pause: pause_of(&queue.info.name),
        is_dead_letter_queue: queue.info.name.ends_with(DEAD),
        name: queue.info.name,
    };
    found.into_iter().filter(|queue| !is_dead(&queue.info.name)).map(view).collect()
}

/// The suffix of dead-letter queue names.
pub(crate) const DEAD: &str = ".dead";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::QueueInfo;
    use serde_json::json;

    #[test]
    fn a_queue_is_shown_with_its_dead_letters() {
        let found = |name: &str, ready| inventory::Found {
            info: QueueInfo { name: name.into(), ready, running: None, delayed: None, consumers: 0 },
            oldest: None,
        };
        let queues = paired(
            vec![found("email", 3), found("email.dead", 2), found("old.dead", 1)],
            &[],
            &[Pause::queue("email")],
        );
        let shown: Vec<_> = queues.iter().map(|q| (q.name.as_str(), q.ready, q.dead)).collect();
        assert_eq!(shown, [("email", 3, Some(2)), ("old.dead", 1, None)]);
        assert!(queues[0].pause.is_some() && queues[1].pause.is_none());
        assert!(queues[1].is_dead_letter_queue && !queues[0].is_dead_letter_queue);
    }

    #[test]
    fn a_worker_is_described_with_what_it_runs() {
        let reply = |value| Reply { node: "w@h".into(), value };
        let stats = reply(json!({
            "sw_ident": "mq-worker", "sw_ver": "1.2", "rusage": {"maxrss": 2048}, "prefetch_count": 20,
            "queues": ["email"], "running": 1,
        }));
        let active = [reply(json!([{
            "id": "a", "name": "send", "time_start": 5.0, "args": [1], "kwargs": {},
            "delivery_info": {"queue": "email", "routing_key": "k"},
        }]))];
        let worker = view(&stats, &[], &active);
        assert_eq!(worker.software.as_deref(), Some("mq-worker 1.2"));
        assert_eq!((worker.memory_bytes, worker.info.prefetch), (Some(2 << 20), Some(20)));
        assert_eq!((worker.tasks[0].queue.as_deref(), &worker.tasks[0].args), (Some("email"), &json!([1])));
    }
}
