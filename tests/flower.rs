//! An unmodified Flower shows and controls our workers like Python's: the same script inspects both.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use mq_worker::{App, Config, QueueKind, SharedState, TaskError, task};
use support::places::Running;
use support::python::{Python, python};
use support::redis::{self, Redis};
use support::{Node, Process, eventually, free_port, shared, unique};

const LIMIT: Duration = Duration::from_secs(180);

/// Output that only a worker in Python has: settings of Celery, of its client and of its processes, and what the second of
/// the two workers knows about the first.
const ONLY_PYTHON: [&str; 6] = [
    ".conf.",
    ".stats.broker.",
    ".stats.pool.writes",
    "GET /workers ",
    "GET /tasks/datatable ",
    "GET /api/queues/length ",
];

#[task(name = "flowered.add")]
async fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[task(name = "flowered.fail", max_retries = 0)]
async fn fail(what: String) -> Result<(), TaskError> {
    Err(TaskError::failed(what))
}

#[task(name = "flowered.sleep", max_retries = 0)]
async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Returns a Celery command with the application that Flower knows.
fn flowered(python: &Python, store: &Redis, queues: &[&str], arguments: &[&str]) -> Command {
    let mut command = python.module("celery", ["-A", "flowered"]);
    command.args(arguments).env("FLOWERED_QUEUES", queues.join(",")).env("FLOWERED_RESULTS", store.url());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flower_cannot_tell_our_worker_from_one_in_python() {
    let Some(python) = python("celery") else { return };
    if !shared::may_start_rabbitmq(file!()) {
        return;
    }
    let (node, management) = Node::start_with_management();
    let mut python = python;
    python.url = node.url();
    if !redis::is_installed(file!()) {
        return;
    }
    let store = Redis::start();
    let names = [unique("rust"), unique("python")];
    let [rust, pythonic] = names.each_ref().map(String::as_str);
    let mut config = Config { broker_url: node.url().parse().expect("a URL"), ..Config::default() };
    config.queue_kind = QueueKind::Classic;
    config.result_backend = Some(store.url().parse().expect("a URL"));
    config.worker.queues = vec![rust.into()];
    config.worker.hostname = Some(format!("{rust}@test"));
    config.worker.concurrency = 2;
    let running = Running::start(App::new(config).expect("a good configuration"), SharedState::default());

    let queues = [pythonic, rust];
    let node_name = format!("{pythonic}@test");
    let worker =
        ["worker", "-n", &node_name, "-Q", pythonic, "-c", "2", "--without-gossip", "--without-mingle"];
    let _worker = Process::spawn(&mut flowered(&python, &store, &queues, &worker));
    let port = free_port();
    let api = format!("--broker-api={}/api/", management.replacen("://", "://guest:guest@", 1));
    let port_argument = format!("--port={port}");
    let arguments = ["flower", "--address=127.0.0.1", &port_argument, &api, "--inspect_timeout=3000"];
    let mut command = flowered(&python, &store, &queues, &arguments);
    command.env("FLOWER_UNAUTHENTICATED_API", "true");
    let flower = Process::spawn(&mut command);
    flower.wait_for_line("Connected to", Duration::from_secs(60));
    let ours = format!("mq-worker {rust}@test (consumer)");
    eventually("the broker tells the connections of workers apart", LIMIT, async || {
        let list = ["list_connections", "--quiet", "client_properties"];
        tokio::task::block_in_place(|| node.ctl.run(list)).contains(&ours).then_some(())
    })
    .await;
    let mut keys = Vec::new();
    for (kind, name) in [("rust", rust), ("python", pythonic)] {
        let address = format!("http://127.0.0.1:{port}");
        let arguments = [address.as_str(), &format!("{name}@test"), name, kind];
        let mut script = python.script("see_in_flower.py", arguments);
        let seen = tokio::task::spawn_blocking(move || Process::spawn(&mut script).wait(LIMIT)).await;
        let seen = seen.expect("it does not panic");
        assert!(seen.status.success(), "{kind}: {}\nFlower: {:?}", seen.stderr, flower.output_so_far());
        keys.push(seen.stdout);
    }
    let names = |keys: &str| keys.lines().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    let [ours, theirs] = [names(&keys[0]), names(&keys[1])];
    let lacks = |key: &&String| !ours.contains(*key) && !ONLY_PYTHON.iter().any(|own| key.contains(own));
    let missing: Vec<_> = theirs.iter().filter(lacks).collect();
    assert!(
        missing.is_empty() && ours.len() > 100,
        "what Flower shows of Python's worker only: {missing:#?}"
    );
    // Flower stopped it.
    running.ended().await;
}
