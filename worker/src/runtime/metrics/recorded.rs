//! The metrics of one worker, with their names.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use chrono::Utc;
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::names::Names;
use super::schedules::ScheduleMetrics;
use super::{Present, StoredAs};
use crate::middleware::OutcomeKind;
use crate::runtime::waited::waited;
use crate::task::Context;

/// Upper bounds in seconds, for runs and for waits in a queue.
const LONG: [f64; 14] =
    [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];
/// The same for settling, which takes as long as broker and backend do.
const SHORT: [f64; 10] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// Records what a worker does, if metrics are served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Option<Arc<Recorded>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    task: String,
    queue: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DeathLabels {
    queue: String,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TaskLabel {
    task: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug)]
struct Recorded {
    registry: Registry,
    names: Names,
    outcomes: Family<OutcomeLabels, Counter>,
    dead: Family<DeathLabels, Counter>,
    run: Histograms<TaskLabel>,
    wait: Histograms<QueueLabel>,
    settle: Histogram,
    results: Family<ResultLabel, Counter>,
    store: Histogram,
    values: Values,
    schedules: ScheduleMetrics,
    /// One reader at a time: values are set just before they are read.
    reading: Mutex<()>,
}

/// The metrics that show a current value.
#[derive(Debug, Default)]
struct Values {
    connected: Gauge,
    delivered: Counter,
    slots: Gauge,
    slots_taken: Gauge,
    slots_lost: Gauge,
    settling: Gauge,
    settling_oldest: Seconds,
    events_dropped: Counter,
    ready: Family<QueueLabel, Gauge>,
    running: Family<QueueLabel, Gauge>,
    delayed: Family<QueueLabel, Gauge>,
    consumers: Family<QueueLabel, Gauge>,
    paused: Family<QueueLabel, Gauge>,
}

impl Metrics {
    /// Metrics that are recorded.
    pub(crate) fn new() -> Self {
        Self(Some(Arc::new(Recorded::new())))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Records that a task started to run.
    pub(crate) fn started(&self, context: &Context) {
        let Some(recorded) = &self.0 else { return };
        if let Some(wait) = waited(context.id(), context.headers(), Utc::now()) {
            let queue = recorded.names.bounded(context.queue());
            recorded.wait.get_or_create(&QueueLabel { queue }).observe(wait.as_secs_f64());
        }
    }

    /// Records how a settled delivery ended, how long it ran (zero if it did not), and how long settling took.
    pub(crate) fn settled(
        &self,
        context: &Context,
        kind: OutcomeKind<'_>,
        ran: Duration,
        settling: Duration,
    ) {
        let Some(recorded) = &self.0 else { return };
        let (task, queue) = (recorded.names.bounded(context.task()), recorded.names.bounded(context.queue()));
        if !ran.is_zero() {
            recorded.run.get_or_create(&TaskLabel { task: task.clone() }).observe(ran.as_secs_f64());
        }
        recorded.settle.observe(settling.as_secs_f64());
        if let OutcomeKind::DeadLettered { reason, .. } = kind {
            recorded.dead.get_or_create(&DeathLabels { queue: queue.clone(), reason }).inc();
        }
        recorded.outcomes.get_or_create(&OutcomeLabels { task, queue, outcome: kind.name() }).inc();
    }

    /// Records whether a result was stored, and how long that took.
    pub(crate) fn result(&self, how: StoredAs, took: Duration) {
        let Some(recorded) = &self.0 else { return };
        let outcome = match how {
            StoredAs::Stored => "stored",
            StoredAs::Skipped => "skipped",
            StoredAs::Failed => "failed",
        };
        if how == StoredAs::Stored {
            recorded.store.observe(took.as_secs_f64());
        }
        recorded.results.get_or_create(&ResultLabel { outcome }).inc();
    }

    /// All metrics in Prometheus' text format. `None`: nothing is recorded.
    pub(crate) fn page(&self, present: impl FnOnce() -> Present) -> Option<String> {
        let recorded = self.0.as_ref()?;
        let _one = recorded.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let present = present();
        recorded.values.set(&present);
        present.schedules.iter().for_each(|figures| recorded.schedules.set(figures));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &recorded.registry).expect("a text takes all that is written");
        Some(text)
    }
}

impl Recorded {
    fn new() -> Self {
        let mut recorded = Self {
            registry: Registry::with_prefix("mq_worker"),
            names: Names::default(),
            outcomes: Family::default(),
            dead: Family::default(),
            run: Family::new_with_constructor(|| Histogram::new(LONG)),
            wait: Family::new_with_constructor(|| Histogram::new(LONG)),
            settle: Histogram::new(SHORT),
            results: Family::default(),
            store: Histogram::new(SHORT),
            values: Values::default(),
            schedules: ScheduleMetrics::default(),
            reading: Mutex::default(),
        };
        recorded.register();
        recorded
    }

    fn register(&mut self) {
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        let started = Seconds::default();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        started.set(now.as_secs_f64());
        let registry = &mut self.registry;
        let mut add = |name: &str, help: &str, metric: &dyn Register| metric.register(registry, name, help);
        add("tasks", "Deliveries by how they ended", &self.outcomes);
        add("dead_letters", "Messages moved to a dead-letter queue, by reason", &self.dead);
        add("task_run_seconds", "How long tasks ran", &self.run);
        add("task_queue_seconds", "How long calls waited in their queue since they were due", &self.wait);
        add("task_settle_seconds", "How long it took to store and settle an outcome", &self.settle);
        add("results", "Results by what became of them: stored, skipped or failed", &self.results);
        add("result_store_seconds", "How long it took until a result was stored", &self.store);
        let values = &self.values;
        add("connected", "1 while the worker is attached to all of its queues", &values.connected);
        add("deliveries", "Messages delivered to this worker", &values.delivered);
        add("slots", "How many tasks may run at once", &values.slots);
        add("slots_taken", "Slots that are taken, including lost ones", &values.slots_taken);
        add("slots_lost", "Slots held by plain functions that passed their time limit", &values.slots_lost);
        add("settling", "Outcomes that wait for broker or backend", &values.settling);
        add("settling_oldest_seconds", "How long the oldest of these has waited", &values.settling_oldest);
        add("events_dropped", "Events that were not sent", &values.events_dropped);
        add("queue_ready", "Messages that can be delivered", &values.ready);
        add(
            "queue_running",
            "Delivered messages that are not settled, if the broker reports them",
            &values.running,
        );
        add(
            "queue_delayed",
            "Messages that wait for their time, if the broker reports them",
            &values.delayed,
        );
        add("queue_consumers", "Consumers of the queue", &values.consumers);
        add("queue_paused", "1 while the queue is paused", &values.paused);
        add("start_time_seconds", "When the worker started, in seconds since 1970", &started);
        self.schedules.register(registry);
        registry.register("build", "The version of mq-worker", version);
    }
}

/// A metric whose clones share their values.
trait Register {
    fn register(&self, registry: &mut Registry, name: &str, help: &str);
}

impl<M: Metric + Clone> Register for M {
    fn register(&self, registry: &mut Registry, name: &str, help: &str) {
        registry.register(name, help, self.clone());
    }
}

impl Values {
    fn set(&self, present: &Present) {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.connected.set(present.is_connected.into());
        raise(&self.delivered, present.delivered);
        self.slots.set(number(present.slots));
        self.slots_taken.set(number(present.slots_taken));
        self.slots_lost.set(number(present.slots_lost));
        let (settling, oldest) = present.settling;
        self.settling.set(number(settling));
        self.settling_oldest.set(oldest.as_secs_f64());
        raise(&self.events_dropped, present.events_dropped);
        // What the broker no longer reports is unknown: the old value must not stay.
        [&self.ready, &self.running, &self.delayed, &self.consumers, &self.paused]
            .into_iter()
            .for_each(Family::clear);
        for queue in present.queues.iter().flatten() {
            let of = QueueLabel { queue: queue.name.clone() };
            let set = |family: &Family<QueueLabel, Gauge>, count: u64| {
                family.get_or_create(&of).set(i64::try_from(count).unwrap_or(i64::MAX));
            };
            set(&self.ready, queue.ready);
            set(&self.consumers, queue.consumers);
            queue.running.iter().for_each(|count| set(&self.running, *count));
            queue.delayed.iter().for_each(|count| set(&self.delayed, *count));
        }
        for queue in &present.consumed {
            let label = QueueLabel { queue: queue.clone() };
            self.paused.get_or_create(&label).set(present.paused.contains(queue).into());
        }
    }
}

/// Raises a counter to the value of another one, which only grows.
fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::QueueInfo;
    use crate::error::TaskFailure;
    use crate::message::{Headers, Message};
    use crate::task::context::Call;
    use uuid::Uuid;

    fn context(task: &'static str, queue: &str) -> Context {
        let id = Uuid::now_v7().to_string();
        let message = Message { headers: Headers::for_task(task, &id), ..Message::default() };
        Context::new(Call {
            task,
            given_id: None,
            queue: queue.into(),
            exchange: String::new(),
            routing_key: queue.into(),
            redelivered: false,
            message,
            shared: Default::default(),
            stopping: tokio_util::sync::CancellationToken::new().into(),
            result_types: Default::default(),
        })
    }

    fn page(metrics: &Metrics, present: Present) -> String {
        metrics.page(|| present).expect("it records")
    }

    #[test]
    fn outcomes_are_counted_by_task_queue_and_outcome() {
        let metrics = Metrics::new();
        let mail = context("send", "email");
        metrics.started(&mail);
        let (ran, settling) = (Duration::from_millis(20), Duration::from_millis(2));
        let failure = TaskFailure {
            kind: "E".into(),
            module: String::new(),
            message: String::new(),
            traceback: None,
            arguments: Box::default(),
        };
        metrics.settled(&mail, OutcomeKind::Succeeded, ran, settling);
        metrics.settled(&mail, OutcomeKind::Succeeded, ran, settling);
        let after = Duration::from_secs(1);
        metrics.settled(&mail, OutcomeKind::Retried { after, failure: &failure }, ran, settling);
        let dead = OutcomeKind::DeadLettered { reason: "unknown-task", failure: &failure };
        metrics.settled(&context("", "email"), dead, Duration::ZERO, settling);
        let text = page(&metrics, Present::default());
        for line in [
            r#"mq_worker_tasks_total{task="send",queue="email",outcome="succeeded"} 2"#,
            r#"mq_worker_tasks_total{task="send",queue="email",outcome="retried"} 1"#,
            r#"mq_worker_tasks_total{task="unknown",queue="email",outcome="dead_lettered"} 1"#,
            r#"mq_worker_dead_letters_total{queue="email",reason="unknown-task"} 1"#,
            r#"mq_worker_task_run_seconds_bucket{task="send",le="0.05"} 3"#,
            r#"mq_worker_task_run_seconds_count{task="send"} 3"#,
            r#"mq_worker_task_queue_seconds_count{queue="email"} 1"#,
            "mq_worker_task_settle_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert!(!text.contains(r#"run_seconds_count{task="unknown"}"#), "it did not run");
    }

    #[test]
    fn present_values_replace_those_of_before_and_counters_only_grow() {
        let metrics = Metrics::new();
        let queue = |name: &str, ready| QueueInfo {
            name: name.into(),
            ready,
            running: None,
            delayed: Some(4),
            consumers: 1,
        };
        let full = Present {
            is_connected: true,
            delivered: 7,
            slots: 8,
            slots_taken: 3,
            queues: Some(vec![queue("email", 5)]),
            paused: vec!["sms".into()],
            consumed: vec!["email".into(), "sms".into()],
            ..Present::default()
        };
        let text = page(&metrics, full);
        for line in [
            "mq_worker_connected 1",
            "mq_worker_deliveries_total 7",
            "mq_worker_slots 8",
            "mq_worker_slots_taken 3",
            r#"mq_worker_queue_ready{queue="email"} 5"#,
            r#"mq_worker_queue_delayed{queue="email"} 4"#,
            r#"mq_worker_queue_paused{queue="sms"} 1"#,
            r#"mq_worker_queue_paused{queue="email"} 0"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in:\n{text}");
        }
        assert!(!text.contains("queue_running{"), "the broker does not tell");
        let text = page(&metrics, Present { delivered: 6, ..Present::default() });
        assert!(text.contains("mq_worker_deliveries_total 7\n") && text.contains("mq_worker_connected 0\n"));
        assert!(!text.contains("queue_ready{"), "a broker that does not answer has no depth: {text}");
    }

    #[test]
    fn however_many_names_there_are_the_series_are_bounded() {
        let metrics = Metrics::new();
        for number in 0..3000 {
            let context =
                context(Box::leak(format!("task{number}").into_boxed_str()), &format!("queue{number}"));
            metrics.settled(&context, OutcomeKind::Succeeded, Duration::from_millis(1), Duration::ZERO);
        }
        let text = page(&metrics, Present { events_dropped: 3, ..Present::default() });
        let outcomes = text.lines().filter(|line| line.starts_with("mq_worker_tasks_total{")).count();
        assert!(outcomes <= super::super::names::NAMES, "{outcomes} series");
        let other = r#"mq_worker_tasks_total{task="other",queue="other",outcome="succeeded"}"#;
        assert!(text.lines().any(|line| line.starts_with(other)), "{other} in:\n{text}");
        assert!(text.contains("mq_worker_events_dropped_total 3\n"));
    }
}
