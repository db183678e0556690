//! Celery's own `inspect`, `status` and `control` talk to our workers.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use mq_worker::{App, Config, Context, SharedState, task};
use serde_json::{Value, json};
use support::places::Running;
use support::{Process, shared, unique};
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(60);

/// Blocks the task until the test releases it.
struct Gate {
    begun: Semaphore,
    open: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        Self { begun: Semaphore::new(0), open: Semaphore::new(0) }
    }
}

#[task(name = "celery_control.wait")]
async fn wait(ctx: &Context, number: f64) -> f64 {
    let gate = ctx.state::<Arc<Gate>>();
    gate.begun.add_permits(1);
    gate.open.acquire().await.expect("never closed").forget();
    number
}

/// Returns a Python with Celery if the run has one; otherwise prints what is skipped.
fn python() -> Option<String> {
    let python = std::env::var("MQ_TEST_PYTHON").ok();
    if python.is_none() {
        eprintln!("{}: MQ_TEST_PYTHON does not name a Python with Celery: LEFT OUT", file!());
    }
    python
}

/// Runs Celery's command line; returns the exit code and the output.
async fn celery(python: &str, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(python);
    command.args(["-m", "celery", "-b", url]).args(arguments);
    command.env("PYTHONPATH", concat!(env!("CARGO_MANIFEST_DIR"), "/celery"));
    let ended = tokio::task::spawn_blocking(move || Process::spawn(&mut command).wait(LIMIT));
    let ended = ended.await.expect("it does not panic");
    (ended.status.code(), format!("{}{}", ended.stdout, ended.stderr))
}

/// Returns our worker's reply, as `celery inspect --json` prints it.
async fn inspect(python: &str, url: &str, node: &str, what: &str) -> Value {
    let (code, printed) =
        celery(python, url, &["inspect", "--json", "--timeout", "5", "-d", node, what]).await;
    assert_eq!(code, Some(0), "inspect {what}: {printed}");
    let line = printed.lines().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("{printed}"));
    let replies: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {printed}"));
    replies[node].clone()
}

/// Runs a line of Python where `control` is that of a Celery application.
async fn control(python: &str, url: &str, line: &str) {
    let program = format!(
        "from celery import Celery\napp = Celery(broker={url:?})\napp.conf.broker_connection_timeout = 60\n\
         control = app.control\n{line}"
    );
    let mut command = Command::new(python);
    command.args(["-c", &program]);
    let ended = tokio::task::spawn_blocking(move || Process::spawn(&mut command).wait(LIMIT));
    let ended = ended.await.expect("it does not panic");
    assert_eq!(ended.status.code(), Some(0), "{line}: {}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_celery_terminates_stops_even_on_workers_that_missed_the_command() {
    let (Some(server), Some(python)) = (shared::rabbitmq(file!()), python()) else { return };
    let (url, node) = (server.url.as_str(), format!("{}@test", unique("rust")));
    let app = |listens: bool| {
        let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
        config.worker.queues = vec![unique("celery_control")];
        config.worker.hostname = Some(if listens { node.clone() } else { unique("deaf") });
        config.worker.control = listens;
        App::new(config).expect("a good configuration")
    };
    let gate = Arc::new(Gate::default());
    let mut state = SharedState::default();
    state.insert(Arc::clone(&gate));
    let (told, untold) = (app(true), app(false));
    let workers = [&told, &untold].map(|app| Running::start(app.clone(), state.clone()));
    let begin = async |app: &App| {
        let job = app.send(wait.with(1.0).queue(&app.config().worker.queues[0])).await.expect("sent");
        gate.begun.acquire().await.expect("never closed").forget();
        job
    };
    let to_node = format!("destination=[{node:?}], reply=True, timeout=20");

    let job = begin(&told).await;
    control(&python, url, &format!("control.terminate({:?}, {to_node})", job.id())).await;
    let error = job.get().timeout(LIMIT).await.expect_err("it was terminated");
    assert!(error.is_revoked(), "{error}");

    // As Celery's command line does it.
    let job = begin(&told).await;
    let arguments = format!("arguments={{'signal': 'SIGTERM', 'task_id': [{:?}]}}", job.id());
    control(&python, url, &format!("control.broadcast('terminate', {arguments}, {to_node})")).await;
    let error = job.get().timeout(LIMIT).await.expect_err("it was terminated");
    assert!(error.is_revoked(), "{error}");

    // A worker that receives the command records it, including the force, for those that do not.
    let job = begin(&untold).await;
    control(&python, url, &format!("control.terminate({:?}, {to_node})", job.id())).await;
    let error = job.get().timeout(LIMIT).await.expect_err("it was terminated");
    assert!(error.is_revoked(), "{error}");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_s_command_line_works_with_our_workers() {
    let (Some(server), Some(python)) = (shared::rabbitmq(file!()), python()) else { return };
    let (url, node) = (server.url.as_str(), format!("{}@test", unique("rust")));
    let mut config = Config { broker_url: url.parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec![unique("celery_control")];
    config.worker.hostname = Some(node.clone());
    config.worker.concurrency = 3;
    let app = App::new(config).expect("a good configuration");
    let gate = Arc::new(Gate::default());
    let mut state = SharedState::default();
    state.insert(Arc::clone(&gate));
    let running = Running::start(app.clone(), state);
    let queue = app.config().worker.queues[0].clone();
    let job = app.send(wait.with(2.5).queue(&queue)).await.expect("sent");

    // The worker may need a moment to start, and so does Python.
    let status = ["status", "--timeout", "5", "-d", &node];
    let mut last = celery(&python, url, &status).await;
    for _ in 0..5 {
        if last.0 == Some(0) {
            break;
        }
        last = celery(&python, url, &status).await;
    }
    assert!(last.0 == Some(0) && last.1.contains(&node) && last.1.contains("OK"), "status: {}", last.1);

    assert_eq!(inspect(&python, url, &node, "ping").await, json!({"ok": "pong"}));
    let active = inspect(&python, url, &node, "active").await;
    assert_eq!((&active[0]["id"], &active[0]["args"]), (&json!(job.id()), &json!([2.5])), "{active}");
    let stats = inspect(&python, url, &node, "stats").await;
    assert_eq!(stats["pool"]["max-concurrency"], 3, "{stats}");
    assert_eq!(stats["total"], json!({"celery_control.wait": 1}));
    assert!(!stats.to_string().contains("guest:guest"), "{stats}");
    let registered = inspect(&python, url, &node, "registered").await;
    assert!(registered.as_array().expect("a list").contains(&json!("celery_control.wait")), "{registered}");
    let queues = inspect(&python, url, &node, "active_queues").await;
    assert_eq!(queues[0]["name"], json!(queue), "{queues}");
    for what in ["scheduled", "reserved"] {
        assert_eq!(inspect(&python, url, &node, what).await, json!([]), "{what}");
    }
    for what in ["conf", "clock"] {
        assert!(inspect(&python, url, &node, what).await.is_object(), "{what}");
    }
    // Without JSON, Celery formats the replies for people, which requires that it can parse them.
    for what in ["stats", "active", "registered", "active_queues", "report", "conf"] {
        let (code, printed) = celery(&python, url, &["inspect", "--timeout", "5", "-d", &node, what]).await;
        assert!(code == Some(0) && printed.contains(&node), "inspect {what}: {printed}");
    }

    let later = wait.with(1.0).queue(&queue).countdown(Duration::from_secs(3600));
    let later = app.send(later).await.expect("sent");
    let revoke = ["control", "--timeout", "5", "-d", &node, "revoke", later.id()];
    let (code, printed) = celery(&python, url, &revoke).await;
    assert!(code == Some(0) && printed.contains("flagged as revoked"), "revoke: {printed}");
    let revoked = inspect(&python, url, &node, "revoked").await;
    assert!(revoked.as_array().expect("a list").contains(&json!(later.id())), "{revoked}");

    let (_, printed) = celery(&python, url, &["control", "--timeout", "1", "-d", &node, "shutdown"]).await;
    // A warm shutdown: it waits for running tasks.
    gate.open.add_permits(1);
    assert_eq!(running.ended().await.succeeded, 1, "{printed}");
    let (code, printed) = celery(&python, url, &["inspect", "--timeout", "1", "-d", &node, "ping"]).await;
    assert_ne!(code, Some(0), "it is gone: {printed}");

    // A worker that starts later knows what Python's client has revoked, although Celery only notifies running workers.
    let again = app.send(wait.with(1.0).queue(&queue).task_id(later.id())).await.expect("sent");
    let running = Running::start(app.clone(), SharedState::default());
    let error = again.get().timeout(LIMIT).await.expect_err("it is not run");
    assert!(error.is_revoked(), "{error}");
    running.stop().await;
}
