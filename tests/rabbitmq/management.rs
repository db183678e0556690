//! The operating commands with and without RabbitMQ's management API.

use std::process::{Command, Output};
use std::time::Duration;

use mq_worker::broker::{self, Publication};
use mq_worker::{Exchange, ExchangeKind, Queue, Topology};
use support::{Node, eventually_blocking, shared};

use super::fixture::{options, to};

/// Runs a command against a broker.
fn run(broker: &str, management: &str, line: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_isolated-worker"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MQ_") {
            command.env_remove(name);
        }
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    command.current_dir(directory.path()).env("MQ_MANAGEMENT_URL", management);
    let Output { status, stdout, stderr } =
        command.args(["--broker", broker]).args(line).output().expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn queues_that_nobody_works_on_are_seen_through_the_management_api() {
    if !shared::may_start_rabbitmq(file!()) {
        return;
    }
    let (node, api) = Node::start_with_management();
    let url = |user: &str, vhost: &str| format!("amqp://{user}@127.0.0.1:{}/{vhost}", node.port());
    node.ctl.run(["add_vhost", "a/b c"]);
    node.ctl.run(["set_permissions", "-p", "a/b c", "guest", ".*", ".*", ".*"]);
    node.ctl.run(["add_user", "plain", "p:w@rd/"]);
    for vhost in ["/", "a/b c"] {
        node.ctl.run(["set_permissions", "-p", vhost, "plain", ".*", ".*", ".*"]);
    }
    let broker = url("guest:guest", "a%2Fb%20c");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let client =
        runtime.block_on(broker::open(&broker.parse().expect("a URL"), &options())).expect("a good address");
    runtime.block_on(async {
        let topology =
            Topology { exchanges: vec![Exchange::new("orders", ExchangeKind::Topic)], ..Topology::default() };
        let topology =
            topology.queue("forgotten").queue(Queue::new("full")).bind("orders", "full", "order.*");
        client.declare(&topology).await.expect("declared");
        for number in 0..33 {
            client.publish(to("forgotten", &number.to_string())).await.expect("published");
        }
        let later = Publication { delay: Some(Duration::from_secs(3600)), ..to("full", "later") };
        client.publish(later).await.expect("published");
    });

    let (code, out, err) = run(&broker, &api, &["queues", "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let queues: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let names: Vec<&str> =
        queues.as_array().expect("a list").iter().filter_map(|q| q["name"].as_str()).collect();
    assert_eq!(names, ["forgotten", "full"], "nothing of the delay, the mailboxes, the notes");
    assert_eq!(queues[0]["ready"], 33, "as of now, not as of the API's last look");
    let (code, _, err) = run(&broker, &api, &["status"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("waiting messages: forgotten") && err.contains("together: 1"), "{err}");
    let (_, out, _) = run(&broker, &api, &["exchanges"]);
    assert!(out.contains("orders") && out.contains("topic") && !out.contains("delayed_27"), "{out}");
    let (_, out, _) = run(&broker, &api, &["bindings", "--exchange", "orders"]);
    assert!(out.contains("order.*") && out.contains("full"), "{out}");
    let (code, out, err) = run(&broker, &api, &["bindings", "--queue", "nothing"]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{err}");

    // The API updates counts of unacked messages at intervals, unless the server is configured to collect no metrics.
    let configuration = std::env::var("MQ_TEST_RABBITMQ_CONFIGURATION").unwrap_or_default();
    let has_metrics = !configuration.contains("management_metrics_collection = false");
    let held = runtime.block_on(client.get("forgotten")).expect("an answer").expect("a message");
    eventually_blocking("one is running", Duration::from_secs(60), || {
        let (_, out, _) = run(&broker, &api, &["queues", "--json"]);
        let queues: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        let running = &queues[0]["running"];
        let is_counted = if has_metrics { running == 1 } else { running.is_null() };
        (is_counted && queues[0]["ready"] == 32).then_some(())
    });
    held.requeue();

    // A user without permission is told why and still sees what is known; never "none".
    for (broker, management, code, expected) in [
        (url("plain:p%3Aw%40rd%2F", "a%2Fb%20c"), api.clone(), 77, "set_user_tags plain monitoring"),
        (broker.clone(), format!("http://127.0.0.1:{}", node.port()), 69, "does not speak HTTP"),
        (broker.clone(), "http://127.0.0.1:1".into(), 69, "rabbitmq-plugins enable"),
        (broker.clone(), String::new(), 69, "lists its queues only through the management API"),
    ] {
        let (told, out, err) = run(&broker, &management, &["queues"]);
        assert_eq!(told, Some(code), "{management}: {err}");
        assert!(err.contains(expected) && !err.contains("no queues"), "{management}: {err}");
        assert!(!err.contains("w@rd") && !err.contains("guest:guest") && out.is_empty(), "{err}{out}");
    }
    let (code, out, err) = run(&broker, "", &["queues", "forgotten"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("33"), "{out}");
    runtime.block_on(client.close());
}
