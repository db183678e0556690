//! Python's Celery and Rust tasks on one RabbitMQ: calls, failures, retries, countdowns and a chain, both ways.

#[path = "celery/results.rs"]
mod results;

use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use mq_worker::{App, Config, Context, RouteRule, SendOptions, SharedState, TaskError, task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::places::{Running, eventually};
use support::python::{Python, python};
use support::{Process, unique};

#[task(ignore_result = false)]
async fn rust_add(a: i64, b: i64) -> i64 {
    a + b
}

#[derive(Serialize, Deserialize)]
struct Order {
    id: u64,
    items: Vec<String>,
}

#[task]
async fn rust_describe(order: Order) -> String {
    format!("{}: {}", order.id, order.items.join(", "))
}

#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused: {}", self.0)
    }
}

impl std::error::Error for Refused {}

#[task(max_retries = 0)]
async fn rust_fail(what: String) -> Result<(), Refused> {
    Err(Refused(what))
}

#[task(max_retries = 3, backoff = "10ms..50ms")]
async fn rust_flaky(ctx: &Context, failures: u32) -> Result<u32, TaskError> {
    if ctx.retries() < failures { Err(TaskError::failed("not yet")) } else { Ok(ctx.retries()) }
}

#[task]
async fn rust_typed(
    times: (DateTime<Utc>, DateTime<Utc>, NaiveDate),
    price: f64,
    id: String,
    bytes: Vec<u8>,
    text: String,
    big: u128,
) -> String {
    let (naive, aware, day) = times;
    format!("{naive:?} {aware:?} {day} {price} {id} {bytes:?} {text} {big}")
}

#[task]
async fn rust_big() -> (u128, u64) {
    (1 << 64, u64::MAX)
}

/// A queue for each side, and an application.
struct Lab {
    python: Python,
    results: String,
    rust_queue: String,
    python_queue: String,
    app: App,
}

impl Lab {
    fn new() -> Option<Lab> {
        Self::with_results_in("rpc://")
    }

    fn with_results_in(backend: &str) -> Option<Lab> {
        let python = python("celery")?;
        let (rust_queue, python_queue) = (unique("rust"), unique("python"));
        let mut config = Config { broker_url: python.url.parse().expect("a URL"), ..Config::default() };
        config.worker.queues = vec![rust_queue.clone()];
        config.worker.concurrency = 4;
        config.result_backend = Some(backend.parse().expect("a URL"));
        // Routes Python's tasks to their queue: a chain step that a Rust worker sends does not name it.
        config.routes = vec![RouteRule {
            task: "proj.*".into(),
            queue: Some(python_queue.clone()),
            exchange: None,
            routing_key: None,
            priority: None,
        }];
        let app = App::new(config).expect("a good configuration");
        Some(Lab { python, results: backend.to_owned(), rust_queue, python_queue, app })
    }

    async fn rust_worker(&self) -> Running {
        let mut state = SharedState::default();
        state.insert(self.app.clone());
        let running = Running::start(self.app.clone(), state);
        self.consumed(&self.rust_queue).await;
        running
    }

    /// Starts Celery's own worker on a queue that it declares.
    async fn python_worker(&self) -> Process {
        let arguments = [
            "-A",
            "proj",
            "worker",
            "--pool",
            "solo",
            "--loglevel",
            "INFO",
            "--without-gossip",
            "--without-mingle",
            "--queues",
            &self.python_queue,
            "--hostname",
            &self.python_queue,
        ];
        let mut command = self.python.module("celery", arguments);
        let worker = Process::spawn(self.queues(&mut command));
        tokio::task::block_in_place(|| worker.wait_for_line(" ready.", Duration::from_secs(60)));
        worker
    }

    fn queues<'a>(&self, command: &'a mut std::process::Command) -> &'a mut std::process::Command {
        command
            .env("PROJ_QUEUE", &self.python_queue)
            .env("RUST_QUEUE", &self.rust_queue)
            .env("PROJ_BACKEND", &self.results)
    }

    async fn consumed(&self, queue: &str) {
        let broker = self.app.broker().await.expect("a broker");
        eventually("the worker consumes", async || {
            let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
            queues.first().is_some_and(|queue| queue.consumers >= 1)
        })
        .await;
    }

    /// Makes a call from Python and returns what the script printed.
    async fn call(&self, case: &str) -> String {
        self.script("call.py", &[case]).await
    }

    async fn script(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = self.python.script(name, arguments);
        let process = Process::spawn(self.queues(&mut command));
        let wait = move || process.wait(Duration::from_secs(60));
        let ended = tokio::task::spawn_blocking(wait).await.expect("it ends");
        assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// Calls a Python task and waits for its result.
    async fn python_task<A: Serialize>(&self, task: &str, args: A) -> mq_worker::Result<serde_json::Value> {
        let job = self.app.send_task(task, &args, SendOptions::default()).await.expect("sent");
        job.get().timeout(Duration::from_secs(40)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python_calls_rust_and_gets_the_result() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    assert_eq!(lab.call("result").await, "42\n3\n7: tea, Grüße");
    assert_eq!(running.stop().await.succeeded, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sees_how_a_rust_task_failed() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    let printed = lab.call("failure").await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[0], "Refused: refused: by python");
    assert!(lines[1].starts_with("TypeError: ") && lines[1].contains("`b` is missing"), "{printed}");
    assert!(lines[2].starts_with("NotRegistered: ") && lines[2].contains("rust_unknown"), "{printed}");
    assert_eq!(running.stop().await.failed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_waits_through_the_retries_and_the_countdown_of_a_rust_task() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    assert_eq!(lab.call("retry").await, "2");
    assert_eq!(lab.call("countdown").await, "2 True");
    assert_eq!(running.stop().await.retried, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_calls_python_and_gets_the_result_or_the_failure() {
    let Some(lab) = Lab::new() else { return };
    // The queue is declared by Celery's worker and used as it is.
    let worker = lab.python_worker().await;
    assert_eq!(lab.python_task("proj.add", (2, 3)).await.expect("a result"), json!(5));
    let order = Order { id: 7, items: vec!["tea".into(), "Grüße".into()] };
    assert_eq!(lab.python_task("proj.describe", (order,)).await.expect("a result"), json!("7: tea, Grüße"));
    let error = lab.python_task("proj.fail", ("by rust",)).await.expect_err("it fails");
    let failure = error.task_failure().expect("a failure");
    assert_eq!((failure.kind.as_str(), failure.module.as_str()), ("Refused", "proj"));
    assert!(failure.message.contains("refused: by rust"), "{failure}");
    assert!(failure.traceback.as_deref().is_some_and(|text| text.contains("proj.py")), "{failure:?}");
    assert_eq!(lab.python_task("proj.flaky", (2,)).await.expect("a result"), json!(2), "after two retries");
    let begun = Instant::now();
    let options = SendOptions { countdown: Some(Duration::from_millis(1200)), ..SendOptions::default() };
    let job = lab.app.send_task("proj.add", &(1, 1), options).await.expect("sent");
    assert_eq!(job.get().timeout(Duration::from_secs(40)).await.expect("a result"), json!(2));
    assert!(begun.elapsed() >= Duration::from_millis(1200), "too early, after {:?}", begun.elapsed());
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_from_python_to_rust_and_back() {
    let Some(lab) = Lab::new() else { return };
    let worker = lab.python_worker().await;
    let running = lab.rust_worker().await;
    assert_eq!(lab.call("chain").await, "113");
    assert_eq!(running.stop().await.succeeded, 1);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_python_writes_as_typed_values_is_what_rust_asks_for() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    let times = "2031-01-02T03:04:05.000678Z 2031-01-02T03:04:05.000678Z 2031-01-02";
    let expected =
        format!("{times} 1.1 00000000-0000-0000-0000-000000000005 [255, 0] raw 18446744073709551616");
    assert_eq!(lab.call("typed").await, expected);
    assert_eq!(running.stop().await.succeeded, 1);
    let worker = lab.python_worker().await;
    let job = lab.app.send_task("proj.typed", &(), SendOptions::default()).await.expect("sent");
    let job = lab.app.result::<(DateTime<Utc>, f64, Vec<u8>, u128, f64)>(job.id()).await.expect("a handle");
    let typed = job.get().timeout(Duration::from_secs(40)).await.expect("a result");
    assert_eq!(typed, ("2031-01-02T03:04:05Z".parse().expect("a time"), 1.1, vec![0xff, 0], 1 << 64, 90.0));
    let job = lab.app.send_task("proj.nan", &(), SendOptions::default()).await.expect("sent");
    let job = lab.app.result::<(f64, f64)>(job.id()).await.expect("a handle");
    let (nan, number) = job.get().timeout(Duration::from_secs(40)).await.expect("a result");
    assert!(nan.is_nan() && number == 1.5, "{nan} {number}");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_step_gets_what_its_sender_gave_it() {
    let Some(lab) = Lab::new() else { return };
    let worker = lab.python_worker().await;
    let running = lab.rust_worker().await;
    let printed = lab.call("typed-chain").await;
    let values = "datetime.datetime(2031, 1, 2, 0, 0), datetime.date(2031, 1, 2), Decimal('1.10')";
    let uuid = "UUID('00000000-0000-0000-0000-000000000005')";
    let expected = format!(
        "([18446744073709551616, 18446744073709551615], {values}, {uuid}, b'\\xff', 1180591620717411303424)"
    );
    assert_eq!(printed, expected);
    let printed = lab.call("options").await;
    assert_eq!(printed, "((3, 1), [30, 20], True, 'n', {'tenant': 'a'}, 'shown', 2, 1, 3)");
    assert_eq!(running.stop().await.succeeded, 2);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_part_of_a_chord_is_not_begun() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    let printed = lab.call("chord").await;
    assert!(printed.contains("a task of a chord, which this worker does not support"), "{printed}");
    let summary = running.stop().await;
    assert_eq!((summary.succeeded, summary.failed), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_read_as_celery_reads_them_and_a_limit_of_nothing_is_none() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.rust_worker().await;
    lab.call("times").await;
    eventually("five tasks run", async || {
        let queues = lab.app.broker().await.expect("a broker");
        let queues = queues.queues(std::slice::from_ref(&lab.rust_queue)).await.expect("an answer");
        queues.first().is_some_and(|queue| queue.ready == 0)
    })
    .await;
    let summary = running.stop().await;
    assert_eq!((summary.succeeded, summary.failed), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_worker_does_not_run_what_rust_has_revoked() {
    let Some(lab) = Lab::new() else { return };
    let worker = lab.python_worker().await;
    let options = SendOptions { countdown: Some(Duration::from_secs(3)), ..SendOptions::default() };
    let job = lab.app.send_task("proj.add", &(1, 1), options).await.expect("sent");
    job.revoke().await.expect("revoked");
    let error = job.get().timeout(Duration::from_secs(40)).await.expect_err("it is not run");
    assert!(error.is_revoked(), "{error}");
    assert_eq!(lab.python_task("proj.add", (2, 3)).await.expect("a result"), json!(5), "others are");
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn python_learns_that_its_call_expired_in_the_broker() {
    let Some(lab) = Lab::new() else { return };
    // This worker only declares the queues.
    lab.rust_worker().await.stop().await;
    let broker = lab.app.broker().await.expect("a broker");
    let dead = [format!("{}.dead", lab.rust_queue)];
    let work = async {
        eventually("the call has expired", async || {
            broker.queues(&dead).await.expect("an answer").first().is_some_and(|queue| queue.ready == 1)
        })
        .await;
        Running::start(lab.app.clone(), Default::default())
    };
    let (printed, running) = tokio::join!(lab.call("expires"), work);
    assert_eq!(printed, "TaskRevokedError: expired");
    running.stop().await;
}
