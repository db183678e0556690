//! RabbitMQ's six tutorials, unmodified, against Rust tasks: they work in either start order.

use std::time::Duration;

use mq_worker::{App, Config, Context, Exchange, ExchangeKind, Queue, Topology, task};
use support::journal::Journal;
use support::places::{Running, eventually};
use support::python::{Python, python};
use support::{Process, shared, unique};

/// Most scripts have hard-coded queue names, so each test has its own virtual host.
struct Tutorial {
    python: Python,
    topology: Topology,
    journal: Journal,
}

impl Tutorial {
    /// Returns `None`, after printing why, if this run has no Python or no RabbitMQ.
    fn new(topology: Topology) -> Option<Tutorial> {
        let mut python = python("pika")?;
        let host = unique("tutorial");
        let ctl = shared::rabbitmq("pika")?.ctl;
        ctl.run(["add_vhost", &host]);
        ctl.run(["set_permissions", "-p", &host, "guest", ".*", ".*", ".*"]);
        let authority = python.url.rsplit_once('/').expect("an address with a virtual host").0;
        python.url = format!("{authority}/{host}");
        Some(Tutorial { python, topology, journal: Journal::default() })
    }

    fn app(&self, queue: &str) -> App {
        let mut config = Config {
            broker_url: self.python.url.parse().expect("a URL"),
            topology: self.topology.clone(),
            ..Config::default()
        };
        config.worker.queues = vec![queue.into()];
        config.worker.concurrency = 2;
        App::new(config).expect("a good configuration")
    }

    /// Starts a worker, whether its queue exists or not.
    fn worker(&self, queue: &str) -> Running {
        Running::start(self.app(queue), self.journal.shared())
    }

    /// Starts a worker and waits until it consumes.
    async fn consuming(&self, queue: &str) -> Running {
        let running = self.worker(queue);
        consumers(&self.app(queue), queue, 1).await;
        running
    }

    /// Starts a long-running script and waits until it prints that it is ready.
    fn start(&self, script: &str, arguments: &[&str], says: &str) -> Process {
        let process = Process::spawn(&mut self.script(script, arguments));
        tokio::task::block_in_place(|| process.wait_for_line(says, LIMIT));
        process
    }

    /// Runs a script to completion and returns its output.
    async fn run(&self, script: &str, arguments: &[&str]) -> String {
        let process = Process::spawn(&mut self.script(script, arguments));
        let ended = tokio::task::spawn_blocking(move || process.wait(LIMIT)).await.expect("it ends");
        assert!(ended.status.success(), "{script}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    fn script(&self, script: &str, arguments: &[&str]) -> std::process::Command {
        self.python.script("tutorial.py", [&[script], arguments].concat())
    }

    /// Deletes the queue and exchanges, as in a new virtual host.
    async fn forget(&self, queue: &str) {
        let app = self.app(queue);
        let broker = app.broker().await.expect("a broker");
        broker.delete_queue(queue).await.expect("deleted");
        for exchange in &self.topology.exchanges {
            broker.delete_exchange(&exchange.name, Default::default()).await.expect("deleted");
        }
        self.journal.clear();
    }

    async fn wrote(&self, lines: &[&str]) {
        eventually(&format!("the tasks wrote {lines:?}"), async || self.journal.sorted("lines") == lines)
            .await;
    }
}

const LIMIT: Duration = Duration::from_secs(60);

/// Waits until a script prints a line.
fn prints(process: &Process, line: &str) {
    tokio::task::block_in_place(|| process.wait_for_line(line, LIMIT));
}

async fn consumers(app: &App, queue: &str, count: u64) {
    let broker = app.broker().await.expect("a broker");
    eventually(&format!("queue `{queue}` has {count} consumers"), async || {
        let queues = broker.queues(&[queue.to_owned()]).await.expect("an answer");
        queues.first().is_some_and(|queue| queue.consumers == count)
    })
    .await;
}

/// Returns true if RabbitMQ 4 is configured to refuse the queues of the first and last tutorial, no matter which program declares them.
fn refuses_transient_queues() -> bool {
    std::env::var("MQ_TEST_RABBITMQ_CONFIGURATION")
        .is_ok_and(|lines| lines.contains("transient_nonexcl_queues"))
}

#[task(queue = "hello", topic = "hello", max_retries = 1, backoff = "100ms..100ms")]
fn tutorial_hello(ctx: &Context, body: String) -> Result<(), std::io::Error> {
    let is_first = ctx.retries() == 0;
    ctx.state::<Journal>().write("lines", format!("{body} {}", ctx.retries()));
    if is_first && body.contains("again") { Err(std::io::Error::other("once more")) } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hello_world() {
    if refuses_transient_queues() {
        return;
    }
    let exact = Topology::new().queue(Queue::exact("hello").transient());
    // We declare first.
    let Some(tutorial) = Tutorial::new(exact) else { return };
    let worker = tutorial.consuming("hello").await;
    tutorial.run("send.py", &[]).await;
    tutorial.wrote(&["Hello World! 0"]).await;
    worker.stop().await;
    tutorial.app("hello").publish("", "hello", "Hello pika!").await.expect("published");
    prints(&tutorial.start("receive.py", &[], "Waiting"), "Received Hello pika!");
    // The scripts declare first.
    tutorial.forget("hello").await;
    tutorial.run("send.py", &[]).await;
    let worker = tutorial.consuming("hello").await;
    tutorial.wrote(&["Hello World! 0"]).await;
    worker.stop().await;
    let receiver = tutorial.start("receive.py", &[], "Waiting");
    tutorial.app("hello").publish("", "hello", "Hello pika!").await.expect("published");
    prints(&receiver, "Received Hello pika!");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_queue_that_belongs_to_the_script() {
    if refuses_transient_queues() {
        return;
    }
    let Some(tutorial) = Tutorial::new(Topology::new().queue(Queue::external("hello"))) else { return };
    let app = tutorial.app("hello");
    // Sending to the queue does not declare it either.
    let error = app.publish("", "hello", "too early").await.expect_err("there is no queue");
    assert!(error.is_unroutable(), "{error:?}");
    let error = app.send(tutorial_hello.with("early")).await.expect_err("there is no queue");
    assert!(error.is_unroutable() && error.to_string().contains("external"), "{error}");
    let worker = tutorial.worker("hello");
    tutorial.run("send.py", &[]).await;
    tutorial.wrote(&["Hello World! 0"]).await;
    // Retries and dead letters use our own queues and leave this one as it is.
    app.publish("", "hello", "again").await.expect("published");
    tutorial.wrote(&["Hello World! 0", "again 0", "again 1"]).await;
    // Its owner deletes and recreates it. A call delayed meanwhile, as a retry would be, reaches the new queue.
    app.send(tutorial_hello.with("later").countdown(Duration::from_secs(2))).await.expect("sent");
    let broker = app.broker().await.expect("a broker");
    broker.delete_queue("hello").await.expect("deleted");
    tutorial.run("send.py", &[]).await;
    tutorial.wrote(&["Hello World! 0", "Hello World! 0", "again 0", "again 1", "later 0"]).await;
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_as_a_queue_with_a_dead_letter_queue_meets_the_script() {
    if refuses_transient_queues() {
        return;
    }
    // Without a declaration in our topology, the queue of the script is used as it is.
    let Some(tutorial) = Tutorial::new(Topology::new()) else { return };
    tutorial.run("send.py", &[]).await;
    let worker = tutorial.consuming("hello").await;
    tutorial.run("send.py", &[]).await;
    tutorial.wrote(&["Hello World! 0", "Hello World! 0"]).await;
    worker.stop().await;
}

#[task(queue = "task_queue", topic = "task_queue")]
fn tutorial_work(ctx: &Context, body: String) {
    ctx.state::<Journal>().write("lines", body);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_work_queues() {
    let exact = Topology::new().queue(Queue::exact("task_queue"));
    let Some(tutorial) = Tutorial::new(exact) else { return };
    let worker = tutorial.consuming("task_queue").await;
    tutorial.run("new_task.py", &["First"]).await;
    tutorial.wrote(&["First"]).await;
    worker.stop().await;
    tutorial.app("task_queue").publish("", "task_queue", "Ours").await.expect("published");
    prints(&tutorial.start("worker.py", &[], "Waiting"), "Received Ours");
    tutorial.forget("task_queue").await;
    tutorial.run("new_task.py", &["First"]).await;
    let worker = tutorial.consuming("task_queue").await;
    tutorial.wrote(&["First"]).await;
    worker.stop().await;
    let theirs = tutorial.start("worker.py", &[], "Waiting");
    tutorial.app("task_queue").publish("", "task_queue", "Ours").await.expect("published");
    prints(&theirs, "Received Ours");
}

#[task(queue = "disk", exchange = "logs")]
fn tutorial_logs(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("lines", line);
}

#[task(queue = "disk", exchange = "direct_logs", topic = ["warning", "error"])]
fn tutorial_direct_logs(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("lines", format!("{}:{line}", ctx.routing_key()));
}

#[task(queue = "disk", exchange = "topic_logs", topic = "kern.*")]
fn tutorial_topic_logs(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("lines", format!("{}:{line}", ctx.routing_key()));
}

/// Returns all three exchanges, since every worker on `disk` subscribes to all of them.
fn exchanges(make: fn(&str, ExchangeKind) -> Exchange) -> Topology {
    let kinds = [
        ("logs", ExchangeKind::Fanout),
        ("direct_logs", ExchangeKind::Direct),
        ("topic_logs", ExchangeKind::Topic),
    ];
    let exchanges = kinds.map(|(name, kind)| make(name, kind)).into();
    Topology { exchanges, ..Topology::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_to_five_logs() {
    let exact = exchanges(|name, kind| Exchange::new(name, kind).transient());
    // We declare first.
    let Some(tutorial) = Tutorial::new(exact) else { return };
    let worker = tutorial.consuming("disk").await;
    emit_logs(&tutorial).await;
    tutorial.wrote(&["error:disk full", "info: hello", "kern.warning:hot"]).await;
    worker.stop().await;
    // The scripts' receivers start later and receive our messages.
    let receivers = [
        tutorial.start("receive_logs.py", &[], "Waiting"),
        tutorial.start("receive_logs_direct.py", &["error"], "Waiting"),
        tutorial.start("receive_logs_topic.py", &["kern.*"], "Waiting"),
    ];
    hear_us(&tutorial, &receivers).await;
    // The scripts declare first.
    drop(receivers);
    tutorial.forget("disk").await;
    let receivers = [
        tutorial.start("receive_logs.py", &[], "Waiting"),
        tutorial.start("receive_logs_direct.py", &["error"], "Waiting"),
        tutorial.start("receive_logs_topic.py", &["kern.*"], "Waiting"),
    ];
    let worker = tutorial.consuming("disk").await;
    emit_logs(&tutorial).await;
    tutorial.wrote(&["error:disk full", "info: hello", "kern.warning:hot"]).await;
    hear_us(&tutorial, &receivers).await;
    worker.stop().await;
}

async fn emit_logs(tutorial: &Tutorial) {
    tutorial.run("emit_log.py", &["info:", "hello"]).await;
    tutorial.run("emit_log_direct.py", &["error", "disk", "full"]).await;
    tutorial.run("emit_log_topic.py", &["kern.warning", "hot"]).await;
}

async fn hear_us(tutorial: &Tutorial, [fanout, direct, topic]: &[Process; 3]) {
    let app = tutorial.app("disk");
    for (exchange, key) in [("logs", ""), ("direct_logs", "error"), ("topic_logs", "kern.info")] {
        app.publish(exchange, key, "ours").await.expect("published");
    }
    prints(fanout, "b'ours'");
    prints(direct, "error:b'ours'");
    prints(topic, "kern.info:b'ours'");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_with_an_exchange_that_belongs_to_the_script() {
    let Some(tutorial) = Tutorial::new(exchanges(|name, kind| Exchange::external(name, kind))) else {
        return;
    };
    let app = tutorial.app("disk");
    // The queue is ours and consumed at once; its bindings come later.
    let worker = tutorial.consuming("disk").await;
    for _ in 0..2 {
        for (script, arguments) in [
            ("receive_logs.py", &[][..]),
            ("receive_logs_direct.py", &["x"]),
            ("receive_logs_topic.py", &["x"]),
        ] {
            drop(tutorial.start(script, arguments, "Waiting"));
        }
        let broker = app.broker().await.expect("a broker");
        let before = tutorial.journal.read("lines").len();
        eventually("all three are bound", async || {
            for (exchange, key) in [("logs", ""), ("direct_logs", "error"), ("topic_logs", "kern.info")] {
                let _ = app.publish(exchange, key, exchange).await;
            }
            let lines = tutorial.journal.read("lines");
            let heard = |exchange: &str| lines[before..].iter().any(|line| line.ends_with(exchange));
            heard("logs") && heard("direct_logs") && heard("topic_logs")
        })
        .await;
        // Their owner deletes and recreates them.
        for exchange in ["logs", "direct_logs", "topic_logs"] {
            broker.delete_exchange(exchange, Default::default()).await.expect("deleted");
        }
    }
    worker.stop().await;
}

#[task(queue = "rpc_queue", topic = "rpc_queue")]
fn tutorial_fib(n: u64) -> u64 {
    (0..n).fold((0, 1), |(a, b), _| (b, a + b)).0
}

#[tokio::test(flavor = "multi_thread")]
async fn six_remote_procedure_calls() {
    if refuses_transient_queues() {
        return;
    }
    let exact = Topology::new().queue(Queue::exact("rpc_queue").transient());
    // Our server starts first, theirs joins it.
    let Some(tutorial) = Tutorial::new(exact) else { return };
    let worker = tutorial.consuming("rpc_queue").await;
    assert!(tutorial.run("rpc_client.py", &[]).await.contains("Got 832040"));
    let server = tutorial.start("rpc_server.py", &[], "Awaiting");
    worker.stop().await;
    let ask = async |tutorial: &Tutorial| {
        let answer = tutorial.app("rpc_queue").rpc("rpc_queue", "9").timeout(LIMIT).await.expect("an answer");
        assert_eq!(answer.text().expect("text"), "34");
    };
    ask(&tutorial).await;
    drop(server);
    // Their server starts first, ours joins it.
    tutorial.forget("rpc_queue").await;
    let server = tutorial.start("rpc_server.py", &[], "Awaiting");
    ask(&tutorial).await;
    let worker = tutorial.worker("rpc_queue");
    consumers(&tutorial.app("rpc_queue"), "rpc_queue", 2).await;
    drop(server);
    assert!(tutorial.run("rpc_client.py", &[]).await.contains("Got 832040"));
    worker.stop().await;
}
