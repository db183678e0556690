//! RabbitMQ's six tutorials in Python, each script against Rust tasks, as producer and as consumer.

use std::time::Duration;

use bytes::Bytes;
use mq_worker::{App, Config, Context, ExchangeKind, RouteRule, TaskError, Topology, task};
use serde::{Deserialize, Serialize};
use serde_json::json;
use support::journal::Journal;
use support::places::{Running, eventually};
use support::python::{Python, python};
use support::{Process, unique};

// The unmodified scripts, with the names hard-coded in them.
#[path = "pika/tutorials.rs"]
mod tutorials;

/// The scripts, a queue of its own, and an application that routes its task there.
struct Lab {
    python: Python,
    queue: String,
    app: App,
    journal: Journal,
}

impl Lab {
    /// Returns `None`, after printing why, if this run has no Python or no RabbitMQ.
    fn new(task: &str, topology: Topology) -> Option<Lab> {
        let python = python("pika")?;
        let queue = unique("pika");
        let rule = RouteRule {
            task: task.into(),
            queue: Some(queue.clone()),
            exchange: None,
            routing_key: None,
            priority: None,
        };
        let mut config = Config {
            broker_url: python.url.parse().expect("a URL"),
            routes: vec![rule],
            topology,
            ..Config::default()
        };
        config.topic_exchange = format!("{queue}.topics");
        config.worker.queues = vec![queue.clone()];
        config.worker.concurrency = 4;
        let app = App::new(config).expect("a good configuration");
        Some(Lab { python, queue, app, journal: Journal::default() })
    }

    /// Starts a worker and waits until it consumes.
    async fn worker(&self) -> Running {
        let running = Running::start(self.app.clone(), self.journal.shared());
        let broker = self.app.broker().await.expect("a broker");
        eventually("the worker consumes", async || {
            let queues = broker.queues(std::slice::from_ref(&self.queue)).await.expect("an answer");
            queues.first().is_some_and(|queue| queue.consumers >= 1)
        })
        .await;
        running
    }

    fn start(&self, script: &str, arguments: &[&str]) -> Process {
        Process::spawn(&mut self.python.script(script, arguments))
    }

    /// Runs a script to completion and returns its output.
    async fn run(&self, script: &str, arguments: &[&str]) -> String {
        finished(self.start(script, arguments)).await
    }

    async fn wrote(&self, key: &str, lines: &[&str]) {
        let mut expected = lines.to_vec();
        expected.sort_unstable();
        let wrote = async || {
            while self.journal.sorted(key) != expected {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(60), wrote()).await.is_ok();
        assert_eq!(self.journal.sorted(key), expected, "what the tasks wrote (in time: {in_time})");
    }
}

async fn finished(process: Process) -> String {
    let wait = move || process.wait(Duration::from_secs(40));
    let ended = tokio::task::spawn_blocking(wait).await.expect("it ends");
    assert!(ended.status.success(), "{}{}", ended.stdout, ended.stderr);
    ended.stdout
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[task(topic = "#")]
fn pika_hello(ctx: &Context, body: String) {
    ctx.state::<Journal>().write("hello", body);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hello_world() {
    let Some(lab) = Lab::new("pika_hello", Topology::new()) else { return };
    // The queue is ours, a quorum queue; the scripts use it as it is.
    let running = lab.worker().await;
    lab.run("send.py", &[&lab.queue, "Hello World!", "Grüße"]).await;
    lab.wrote("hello", &["Hello World!", "Grüße"]).await;
    running.stop().await;
    lab.app.publish("", &lab.queue, "Hello pika!").await.expect("published");
    lab.app
        .publish("", &lab.queue, mq_worker::Payload::json(&json!({"n": 1})).expect("JSON"))
        .await
        .expect("published");
    let printed = lab.run("receive.py", &[&lab.queue, "2"]).await;
    assert_eq!(printed, "got Hello pika! (text/plain)\ngot {\"n\":1} (application/json)");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_with_a_queue_that_pika_declared() {
    let Some(lab) = Lab::new("pika_hello", Topology::new()) else { return };
    // A classic queue, not durable where that is permitted: we would declare it differently, but use it as it is.
    lab.run("declare.py", &[&lab.queue]).await;
    let running = lab.worker().await;
    lab.run("send.py", &[&lab.queue, "Hello World!"]).await;
    lab.wrote("hello", &["Hello World!"]).await;
    running.stop().await;
    lab.app.publish("", &lab.queue, "Hello pika!").await.expect("published");
    assert_eq!(lab.run("receive.py", &[&lab.queue, "1"]).await, "got Hello pika! (text/plain)");
}

#[task(topic = "#")]
async fn pika_work(ctx: &Context, body: String) {
    tokio::time::sleep(Duration::from_millis(10 * body.matches('.').count() as u64)).await;
    ctx.state::<Journal>().write("work", body);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_work_queues() {
    let Some(lab) = Lab::new("pika_work", Topology::new()) else { return };
    let running = lab.worker().await;
    let texts = ["First.", "Second..", "Third...", "Fourth...."];
    let mut arguments = vec![lab.queue.as_str()];
    arguments.extend(texts);
    lab.run("new_task.py", &arguments).await;
    lab.wrote("work", &texts).await;
    running.stop().await;
    // The other way round: pika consumes.
    let worker = lab.start("worker.py", &[&lab.queue, "4"]);
    for text in texts {
        lab.app.publish("", &lab.queue, text).await.expect("published");
    }
    let printed = finished(worker).await;
    assert_eq!(
        sorted(&printed),
        ["done First.", "done Fourth....", "done Second..", "done Third...", "ready"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_and_a_rust_worker_share_one_queue() {
    let Some(lab) = Lab::new("pika_work", Topology::new()) else { return };
    let running = lab.worker().await;
    let theirs = lab.start("worker.py", &[&lab.queue, "3"]);
    tokio::task::block_in_place(|| theirs.wait_for_line("ready", Duration::from_secs(30)));
    // Whichever worker is free takes the next message; pika stops after three.
    const ALL: usize = 40;
    for number in 0..ALL {
        lab.app.publish("", &lab.queue, format!("{number}..")).await.expect("published");
    }
    let printed = finished(theirs).await;
    assert_eq!(printed.lines().count(), 4, "{printed}");
    eventually("all are done", async || lab.journal.read("work").len() == ALL - 3).await;
    running.stop().await;
    let mut all: Vec<String> =
        printed.lines().filter_map(|line| line.strip_prefix("done ")).map(str::to_owned).collect();
    all.extend(lab.journal.read("work"));
    all.sort();
    let mut expected: Vec<String> = (0..ALL).map(|number| format!("{number}..")).collect();
    expected.sort();
    assert_eq!(all, expected, "each one once");
}

#[task(exchange = "pika.logs")]
fn pika_fanout(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("logs", line);
}

#[task(exchange = "pika.direct_logs", topic = ["warning", "error"])]
fn pika_direct(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("logs", format!("{} {line}", ctx.routing_key()));
}

#[task(exchange = "pika.topic_logs", topic = ["kern.*", "*.critical"])]
fn pika_topic(ctx: &Context, line: String) {
    ctx.state::<Journal>().write("logs", format!("{} {line}", ctx.routing_key()));
}

/// Tests one exchange in both directions.
async fn logs(task: &str, kind: ExchangeKind, lines: &[&str], keys: &[&str], expected: &[&str]) {
    let exchange = match kind {
        ExchangeKind::Fanout => "pika.logs",
        ExchangeKind::Direct => "pika.direct_logs",
        _ => "pika.topic_logs",
    };
    // The scripts declare a transient exchange, we a durable one: the first declaration wins.
    let Some(lab) = Lab::new(task, Topology::new().exchange(exchange, kind)) else { return };
    let mut arguments = vec![exchange, kind.as_str()];
    lab.run("emit_log.py", &arguments).await;
    let running = lab.worker().await;
    arguments.extend(lines);
    lab.run("emit_log.py", &arguments).await;
    lab.wrote("logs", expected).await;
    assert_eq!(running.stop().await.failed, 0);
    let count = expected.len().to_string();
    let mut arguments = vec![exchange, kind.as_str(), &*count];
    arguments.extend(keys);
    let theirs = lab.start("receive_logs.py", &arguments);
    tokio::task::block_in_place(|| theirs.wait_for_line("ready", Duration::from_secs(30)));
    for line in lines {
        let (key, text) = line.split_once('=').expect("a key and a text");
        lab.app.publish(exchange, key, text).await.or_else(unheard).expect("published");
    }
    let printed = finished(theirs).await;
    let mut theirs: Vec<String> = expected.iter().map(|line| format!("got {line}")).collect();
    if kind == ExchangeKind::Fanout {
        theirs = expected.iter().map(|line| format!("got  {line}")).collect();
    }
    theirs.push("ready".into());
    theirs.sort();
    assert_eq!(sorted(&printed), theirs);
    // The subscription outlives this test, and its queue must not fill up.
    lab.app.broker().await.expect("a broker").delete_queue(&lab.queue).await.expect("deleted");
}

fn unheard(error: mq_worker::Error) -> mq_worker::Result<()> {
    if error.is_unroutable() { Ok(()) } else { Err(error) }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_publish_and_subscribe() {
    logs(
        "pika_fanout",
        ExchangeKind::Fanout,
        &["=info: one", "=warning: two"],
        &[],
        &["info: one", "warning: two"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_routing() {
    let lines = ["info=one", "warning=two", "error=three"];
    logs("pika_direct", ExchangeKind::Direct, &lines, &["warning", "error"], &["warning two", "error three"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_topics() {
    let lines = ["kern.info=one", "cron.critical=two", "cron.info=three", "kern.critical=four"];
    let expected = ["kern.info one", "cron.critical two", "kern.critical four"];
    logs("pika_topic", ExchangeKind::Topic, &lines, &["kern.*", "*.critical"], &expected).await;
}

#[task(topic = "#", max_retries = 0)]
fn pika_fib(n: u64) -> Result<u64, TaskError> {
    match n {
        91.. => Err(TaskError::reject(format!("{n} is too large"))),
        _ => Ok((0..n).fold((0, 1), |(a, b), _| (b, a + b)).0),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_remote_procedure_calls() {
    let Some(lab) = Lab::new("pika_fib", Topology::new()) else { return };
    let running = lab.worker().await;
    let printed = lab.run("rpc_client.py", &[&lab.queue, "30", "7", "200", "many"]).await;
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..2], ["30 -> 832040", "7 -> 13"]);
    assert!(lines[2].contains("200 is too large") && lines[3].contains("TypeError"), "{printed}");
    running.stop().await;
    let theirs = unique("rpc");
    let server = lab.start("rpc_server.py", &[&theirs, "2"]);
    tokio::task::block_in_place(|| server.wait_for_line("ready", Duration::from_secs(30)));
    for (question, answer) in [("30", "832040"), ("7", "13")] {
        let given = lab.app.rpc(&theirs, question).timeout(Duration::from_secs(20)).await.expect("an answer");
        assert_eq!(given.text().expect("text"), answer);
    }
    finished(server).await;
}

#[derive(Serialize, Deserialize)]
struct Shop {
    id: u64,
    name: String,
}

#[task(topic = "#")]
fn pika_facts(ctx: &Context, body: Bytes) -> Result<(), TaskError> {
    let properties = ctx.properties();
    let line = match properties.content_type.as_deref() {
        Some("application/json") => {
            let shop: Shop =
                serde_json::from_slice(&body).map_err(|error| TaskError::reject(error.to_string()))?;
            format!("{} {}", shop.id, shop.name)
        }
        _ => format!("{:?}", &body[..]),
    };
    let headers: serde_json::Map<_, _> =
        ctx.headers().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    let facts = json!([properties.content_type, properties.message_id, properties.reply_to, headers, line]);
    ctx.state::<Journal>().write("facts", facts.to_string());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_json_and_all_properties_arrive() {
    let Some(lab) = Lab::new("pika_facts", Topology::new()) else { return };
    let running = lab.worker().await;
    lab.run("facts.py", &[&lab.queue]).await;
    let headers = json!({"shop": "berlin", "count": 3, "deep": {"list": [1, "two", null]}});
    let first = json!(["application/json", "message-7", "nowhere", headers, "7 Grüße"]).to_string();
    let second = json!(["image/png", null, null, {}, "[0, 255, 16]"]).to_string();
    lab.wrote("facts", &[&first, &second]).await;
    running.stop().await;
}
