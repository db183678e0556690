//! A fleet of workers in Rust and Python, observed and controlled with Celery's tools and with ours.

use std::process::Command;
use std::time::Duration;

use mq_worker::{App, Config, Context, QueueKind, SharedState, task};
use serde_json::{Value, json};
use support::places::{Running, consumed};
use support::process::Ended;
use support::python::{Python, python};
use support::{Process, eventually, shared, unique};

const LIMIT: Duration = Duration::from_secs(120);

#[task(name = "fleet.add")]
async fn add(ctx: &Context, x: i64, y: i64) -> i64 {
    ctx.progress(1, 2, "adding");
    x + y
}

/// A broker without other users, and a worker in Rust.
struct Fleet {
    python: Python,
    app: App,
    node: String,
    queue: String,
    running: Running,
}

impl Fleet {
    async fn start() -> Option<Self> {
        let mut python = python("celery")?;
        python.url = shared::fresh_rabbitmq("fleet")?;
        let (node, queue) = (format!("{}@fleet", unique("rust")), unique("rust"));
        let mut config = Config { broker_url: python.url.parse().expect("a URL"), ..Config::default() };
        config.queue_kind = QueueKind::Classic;
        config.worker.queues = vec![queue.clone()];
        config.worker.hostname = Some(node.clone());
        config.worker.concurrency = 2;
        let app = App::new(config).expect("a good configuration");
        let running = Running::start(app.clone(), SharedState::default());
        consumed(&app, &queue, 1).await;
        Some(Self { python, app, node, queue, running })
    }

    /// Returns a Celery command with the application of the fleet.
    fn celery(&self, arguments: &[&str]) -> Command {
        let mut command = self.python.module("celery", ["-A", "fleet"]);
        command.args(arguments);
        command
    }

    /// Returns one of our commands.
    fn shell(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_isolated-worker"));
        command.args(["--broker", &self.python.url]).args(arguments).env_remove("RUST_LOG");
        command
    }
}

async fn ended(mut command: Command) -> Ended {
    tokio::task::spawn_blocking(move || Process::spawn(&mut command).wait(LIMIT)).await.expect("no panic")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn celery_s_control_changes_our_worker_and_its_events_are_dumped() {
    let Some(fleet) = Fleet::start().await else { return };
    let dump = Process::spawn(&mut fleet.celery(&["events", "--dump"]));
    let extra = unique("extra");
    let replied = ended(fleet.python.script("fleet.py", [&fleet.node, &extra])).await;
    assert!(replied.status.success(), "{}", replied.stderr);
    let replies: Value = serde_json::from_str(replied.stdout.trim()).expect("JSON");
    let ok = |text: &str| json!([{ "ok": text }]);
    let error = |text: &str| json!([{ "error": text }]);
    let expected = json!({
        "add_consumer": ok(&format!("add consumer {extra}")),
        "cancel_consumer": ok(&format!("no longer consuming from {extra}")),
        "pool_grow": ok("pool will grow"),
        "pool_shrink": ok("pool will shrink"),
        "time_limit": ok("time limits set successfully"),
        "time_limit of none": error("unknown task"),
        "rate_limit": error("this worker has no rate limits yet: nothing was changed"),
        "rate_limit of 0": ok("rate limit disabled successfully"),
        "rate_limit of nonsense": error("Invalid rate limit string: ValueError('often')"),
        "enable_events": ok("task events enabled"),
        "disable_events": ok("task events disabled"),
        "revoke_by_stamped_headers": ok("headers {'tenant': ['acme']} flagged as revoked, but not terminated"),
        "autoscale": error("ValueError('Autoscale not enabled')"),
        "pool_restart": error("ValueError('Pool restarts not enabled')"),
        "election": error("NotImplementedError('election is not supported by this worker')"),
        "glob": ok("pong"),
        "pcre": ok("pong"),
        "another": [],
    });
    for (what, reply) in expected.as_object().expect("an object") {
        assert_eq!(&replies[what], reply, "{what}");
    }

    // A reader of the worker's events also gets the events of its calls.
    dump.wait_for_line(&format!("{} [", fleet.node), LIMIT);
    let enabled = ended(fleet.celery(&["control", "-t", "20", "-d", &fleet.node, "enable_events"])).await;
    assert!(enabled.status.success() && enabled.stdout.contains("task events enabled"), "{}", enabled.stdout);
    let job = fleet.app.send(add.with(2, 3).queue(&fleet.queue)).await.expect("sent");
    dump.wait_for_line(&format!("task received: fleet.add({}) args=(2, 3) kwargs={{}}", job.id()), LIMIT);
    dump.wait_for_line("mq reported: ", LIMIT);
    dump.wait_for_line(&format!("task succeeded: fleet.add({}) args=(2, 3) kwargs={{}}", job.id()), LIMIT);
    fleet.running.stop().await;
    dump.wait_for_line(&format!("{} [", fleet.node), LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_commands_drive_workers_in_both_languages() {
    let Some(fleet) = Fleet::start().await else { return };
    let (name, queue) = (unique("python"), unique("python"));
    let pythonic = format!("{name}@fleet");
    let arguments =
        ["worker", "-n", &pythonic, "-Q", &queue, "-c", "2", "--without-gossip", "--without-mingle"];
    let mut worker = fleet.celery(&arguments);
    worker.env("FLEET_QUEUES", format!("{queue},{}", fleet.queue));
    let _worker = Process::spawn(&mut worker);
    let both = format!("{},{pythonic}", fleet.node);
    let tell_some = async |nodes: &str, arguments: &[&str]| -> (Option<i32>, Value) {
        let mut command = fleet.shell(&["control", "--json", "--timeout", "20s"]);
        command.args(["--destination", nodes]).args(arguments);
        let ended = ended(command).await;
        let replies = serde_json::from_str(&ended.stdout);
        (ended.status.code(), replies.unwrap_or(Value::String(ended.stderr)))
    };
    let tell = async |arguments: &[&str]| tell_some(&both, arguments).await;
    eventually("both answer", LIMIT, async || {
        let mut command = fleet.shell(&["control", "--timeout", "2s", "--destination", &both, "ping"]);
        command.env("RUST_LOG", "off");
        let ping = ended(command).await;
        ping.status.success().then_some(())
    })
    .await;

    let events = Process::spawn(&mut fleet.shell(&["events", "--json", "--enable"]));
    for node in [&fleet.node, &pythonic] {
        events.wait_for_line(&format!(r#""type":"worker-heartbeat","hostname":"{node}""#), LIMIT);
    }
    let jobs = [&fleet.queue, &queue].map(|queue| add.with(2, 3).queue(queue).ignore_result());
    for (job, node) in jobs.into_iter().zip([&fleet.node, &pythonic]) {
        fleet.app.send(job).await.expect("sent");
        events.wait_for_line(&format!(r#""type":"task-succeeded","hostname":"{node}""#), LIMIT);
    }

    let same = |value: Value| json!({ fleet.node.clone(): value, pythonic.clone(): value });
    let ok = |text: &str| (Some(0), same(json!({ "ok": text })));
    assert_eq!(tell(&["pool_grow", "1"]).await, ok("pool will grow"));
    assert_eq!(tell(&["pool_shrink", "1"]).await, ok("pool will shrink"));
    assert_eq!(tell(&["time_limit", "fleet.add", "hard=30"]).await, ok("time limits set successfully"));
    // Whichever worker declares a new queue, the other accepts it: a worker in Python would exit otherwise.
    for nodes in [[&fleet.node, &pythonic], [&pythonic, &fleet.node]] {
        let extra = unique("extra");
        let consumes = async |node: &String| {
            let (_, replies) = tell_some(node, &["active_queues"]).await;
            let queues = replies[node].as_array().cloned().unwrap_or_default();
            queues.iter().any(|queue| queue["name"] == json!(extra)).then_some(())
        };
        for node in nodes {
            let ok = (Some(0), json!({ node.clone(): { "ok": format!("add consumer {extra}") } }));
            assert_eq!(tell_some(node, &["add_consumer", &extra]).await, ok);
            // The reply does not guarantee that the queue exists.
            eventually("it consumes from the queue", LIMIT, async || consumes(node).await).await;
        }
        consumed(&fleet.app, &extra, 2).await;
        assert_eq!(
            tell(&["cancel_consumer", &extra]).await,
            ok(&format!("no longer consuming from {extra}"))
        );
    }
    assert_eq!(tell(&["disable_events"]).await, ok("task events disabled"));
    let (code, replies) = tell(&["rate_limit", "fleet.add", "5/m"]).await;
    assert_eq!((code, &replies[&pythonic]["ok"]), (Some(1), &json!("new rate limit set successfully")));
    assert!(replies[&fleet.node]["error"].is_string(), "{replies}");
    assert_eq!(tell(&["reserved"]).await, (Some(0), same(json!([]))));
    let (code, replies) = tell(&["nonsense"]).await;
    assert_eq!((code, replies[&fleet.node]["error"].as_str()), (Some(1), Some("KeyError('nonsense')")));
    fleet.running.stop().await;
}
