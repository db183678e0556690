use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use serde_json::{Map, json};

use super::*;
use crate::app::{Config, Prefetch};
use crate::broker::ConsumerControl;
use crate::control::{Control, ReplyTo};
use crate::routing::{Queue, Topology};
use crate::task::Context;
use crate::task::SharedState;
use crate::task::context::Call;

/// A consumer that delivers nothing.
struct Nothing;

impl ConsumerControl for Nothing {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn node(name: &str, broker: &str) -> Arc<Node> {
    let mut config =
        Config { broker_url: format!("memory://{broker}").parse().expect("a URL"), ..Config::default() };
    config.worker.hostname = Some(name.into());
    config.worker.concurrency = 4;
    config.worker.prefetch = Prefetch::Fixed(8);
    let app = App::new(config).expect("a good configuration");
    let (slots, pauses) = (Arc::new(Slots::new(4)), Arc::<Pauses>::default());
    let window = Window::new(Prefetch::Fixed(8), Arc::clone(&slots), Arc::new(Nothing), Arc::clone(&pauses));
    let topology = Topology::of_queue(Queue { max_priority: Some(9), ..Queue::new("mail") });
    Arc::new(Node {
        name: name.into(),
        running: Arc::new(RunningTasks::new(app.registry())),
        settling: Default::default(),
        slots,
        revocations: Arc::default(),
        pauses,
        app,
        sources: Arc::new(Sources::new(vec!["mail".into()], topology)),
        window: Arc::new(window),
        reserved_requests: Arc::default(),
        limits: Arc::default(),
        since: Instant::now(),
        handle: WorkerHandle::default(),
        clock: Arc::default(),
        heartbeat: Heartbeat { reporter: Default::default(), running: Arc::default() },
    })
}

fn ask(node: &Arc<Node>, method: &str, arguments: Value) -> Value {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    node.perform(&Command { arguments, ..Command::new(method) }).expect("an answer")
}

fn call(id: &str, body: &str) -> Context {
    let mut message = Message { body: body.to_owned().into(), ..Message::default() };
    message.headers = crate::message::Headers::for_task("mail.send", id);
    message.headers.set("argsrepr", "('long',)");
    Context::new(Call {
        task: "mail.send",
        given_id: Some(id.into()),
        queue: "mail".into(),
        exchange: String::new(),
        routing_key: "mail".into(),
        redelivered: false,
        message,
        shared: SharedState::default(),
        stopping: CancellationToken::new().into(),
        result_types: Default::default(),
    })
}

#[test]
fn the_answers_have_celery_s_form() {
    let node = node("one@h", "answers");
    assert_eq!(ask(&node, "ping", json!({"x": 1})), json!({"ok": "pong"}));
    for method in ["scheduled", "revoked", "active"] {
        assert_eq!(ask(&node, method, json!({})), json!([]), "{method}");
    }
    assert_eq!(ask(&node, "heartbeat", json!({})), Value::Null);
    assert_eq!(ask(&node, "hello", json!({"from_node": "one@h", "revoked": []})), Value::Null);
    assert_eq!(ask(&node, "hello", json!({"from_node": "two@h", "revoked": {}}))["revoked"], json!([]));
    assert_eq!(ask(&node, "frobnicate", json!({})), json!({"error": "KeyError('frobnicate')"}));
    assert_eq!(ask(&node, "it's", json!({})), json!({"error": "KeyError(\"it's\")"}));
    let stats = ask(&node, "stats", json!({}));
    assert_eq!(stats["pool"]["max-concurrency"], 4);
    assert_eq!((&stats["prefetch_count"], &stats["pid"]), (&json!(8), &json!(std::process::id())));
    assert!(stats["clock"].is_string() && stats["total"].is_object() && stats["broker"].is_object());
    assert!(ask(&node, "clock", json!({}))["clock"].is_u64());
    assert!(ask(&node, "report", json!({}))["ok"].as_str().expect("text").contains("mq-worker:"));
    assert_eq!(ask(&node, "conf", json!({"with_defaults": true}))["worker_concurrency"], 4);
}

#[tokio::test]
async fn revoking_and_terminating_are_answered_in_celery_s_words() {
    let node = node("one@h", "revoking");
    let running = call("a", "[[], {}, {}]");
    let _running = node.running.enter(&running, Instant::now(), false);
    let ok = |text: &str| json!({"ok": text});
    assert_eq!(ask(&node, "revoke", json!({"task_id": "b"})), ok("tasks b flagged as revoked"));
    assert!(!running.is_revoked());
    assert_eq!(
        ask(&node, "terminate", json!({"signal": "TERM", "task_id": "b"})),
        ok("terminate: tasks unknown")
    );
    assert_eq!(ask(&node, "terminate", json!({"signal": "TERM", "task_id": ["a", "b"]})), ok("terminate: a"));
    // As Flower writes it.
    assert_eq!(ask(&node, "revoke", json!({"task_id": ["a"], "terminate": 1})), ok("terminate: a"));
    assert!(running.is_revoked());
    running.terminated().await;
    let error = |method| ask(&node, method, json!({}))["error"].as_str().expect("an error").to_owned();
    assert!(error("terminate").starts_with("TypeError(\"terminate() missing"), "{}", error("terminate"));
    assert!(error("revoke_by_stamped_headers").contains("'headers'"));
    let stamps = json!({"headers": {"k": ["v"]}});
    let flagged = ok("headers {'k': ['v']} flagged as revoked, but not terminated");
    assert_eq!(ask(&node, "revoke_by_stamped_headers", stamps), flagged);
    let stamps = json!({"headers": ["k=v"], "terminate": true});
    assert_eq!(ask(&node, "revoke_by_stamped_headers", stamps), ok("headers ['k=v'] were not terminated"));
}

/// Without these keys, Flower's page of a worker fails.
#[test]
fn a_queue_has_every_key_that_celery_s_has() {
    let reply = &ask(&node("one@h", "queues"), "active_queues", json!({}))[0];
    let keys = "name exchange routing_key queue_arguments binding_arguments consumer_arguments durable exclusive \
                auto_delete no_ack alias bindings no_declare expires message_ttl max_length max_length_bytes \
                max_priority";
    for key in keys.split_whitespace() {
        assert!(reply.get(key).is_some(), "{key} is missing in {reply}");
    }
    for key in
        ["name", "type", "arguments", "durable", "passive", "auto_delete", "delivery_mode", "no_declare"]
    {
        assert!(reply["exchange"].get(key).is_some(), "{key} is missing in {reply}");
    }
    assert_eq!((&reply["name"], &reply["max_priority"]), (&json!("mail"), &json!(9)));
}

#[test]
fn running_tasks_are_told_with_their_arguments_while_these_are_short() {
    let node = node("one@h", "active");
    let short = call("a", r#"[["x@y"], {"bcc": null}, {}]"#);
    let long = call("b", &format!(r#"[["{}"], {{}}, {{}}]"#, "x".repeat(5000)));
    let _short = node.running.enter(&short, Instant::now(), false);
    let _long = node.running.enter(&long, Instant::now(), true);
    let active = ask(&node, "active", json!({}));
    let by_id: BTreeMap<&str, &Value> = active
        .as_array()
        .expect("a list")
        .iter()
        .map(|task| (task["id"].as_str().expect("an id"), task))
        .collect();
    let task = by_id["a"];
    assert_eq!((&task["args"], &task["kwargs"]), (&json!(["x@y"]), &json!({"bcc": null})));
    assert_eq!((&task["name"], &task["type"]), (&json!("mail.send"), &json!("mail.send")));
    assert_eq!((&task["hostname"], &task["acknowledged"]), (&json!("one@h"), &json!(false)));
    assert_eq!(task["delivery_info"]["routing_key"], "mail");
    assert!(task["time_start"].as_f64().expect("a time") > 1.6e9);
    assert_eq!((&by_id["b"]["args"], &by_id["b"]["acknowledged"]), (&json!("('long',)"), &json!(true)));
    // Flower asks only for what may be shown.
    let shown = ask(&node, "active", json!({"safe": true}));
    assert_eq!((&shown[0]["args"], &shown[1]["args"]), (&json!("('long',)"), &json!("('long',)")));
    assert_eq!(ask(&node, "stats", json!({}))["running"], 2);
}

#[tokio::test]
async fn calls_are_found_by_their_ids() {
    let node = node("one@h", "query");
    // It has no pipe to ask for the reserved deliveries.
    node.handle.stop();
    let calls = ["a", "b"].map(|id| call(id, "[[], {}, {}]"));
    let _places = calls.each_ref().map(|call| node.running.enter(call, Instant::now(), false));
    let query = async |ids: Value| {
        let Value::Object(arguments) = ids else { panic!("an object") };
        node.query_task(&arguments).await
    };
    let found = query(json!({"ids": ["b", "nope"]})).await;
    assert_eq!((found.as_object().expect("an object").len(), &found["b"][0]), (1, &json!("active")));
    assert_eq!(query(json!({"ids": "a"})).await["a"][1]["id"], "a");
    assert_eq!(
        query(json!({})).await["error"],
        "TypeError(\"query_task() missing 1 required positional argument: 'ids'\")"
    );
    assert_eq!(node.reserved().await, json!([]));
}

#[tokio::test]
async fn shutdown_stops_warm_and_is_not_answered() {
    let node = node("one@h", "shutdown");
    let command = Command {
        destination: Some(vec!["one@h".into()]),
        reply_to: Some(ReplyTo { exchange: "x".into(), routing_key: "k".into() }),
        ..Command::new("shutdown")
    };
    let other = Command { destination: Some(vec!["two@h".into()]), ..command.clone() };
    assert!(node.answer(&other.into_message(1).expect("a message")).await.is_none());
    assert!(!node.handle.is_stopping());
    assert!(node.answer(&command.into_message(1).expect("a message")).await.is_none());
    assert!(node.handle.is_stopping());
}

#[tokio::test]
async fn a_command_whose_nodes_are_named_in_an_unknown_way_is_not_carried_out() {
    let node = node("one@h", "unclear");
    let command = Command {
        pattern: Some("one(".into()),
        matcher: Some("pcre".into()),
        reply_to: Some(ReplyTo { exchange: "x".into(), routing_key: "k".into() }),
        ..Command::new("shutdown")
    };
    let reply =
        node.answer(&command.into_message(1).expect("a message")).await.expect("an error is an answer");
    let reply = &Reply::from_message(&reply.message).expect("a reply")[0];
    assert!(reply.error().expect("an error").contains("pcre"), "{reply:?}");
    assert!(!node.handle.is_stopping());
}

#[tokio::test]
async fn the_clock_follows_the_sender_and_a_message_that_is_no_command_does_nothing() {
    let node = node("one@h", "clock");
    let mut message = Command::new("ping").into_message(70).expect("a message");
    assert!(node.answer(&message).await.is_none(), "nobody wanted a reply");
    assert_eq!(node.clock.now(), 71);
    message.body = "{".into();
    assert!(node.answer(&message).await.is_none());
}

async fn served(node: &Arc<Node>, over: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let broker = node.app.broker().await.expect("a broker");
    let known = mailboxes(&*broker).await.len();
    let serving = tokio::spawn({
        let (node, broker, over) = (Arc::clone(node), Arc::clone(&broker), over.clone());
        async move { node.serve(broker, CancellationToken::new(), over).await }
    });
    while mailboxes(&*broker).await.len() == known {
        tokio::task::yield_now().await;
    }
    serving
}

async fn mailboxes(broker: &dyn Broker) -> Vec<String> {
    let queues = broker.queues(&[]).await.expect("a list");
    let consumed = queues.into_iter().filter(|queue| queue.consumers > 0);
    consumed.map(|queue| queue.name).filter(|name| name.ends_with(".celery.pidbox")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_reach_all_nodes_some_or_none() {
    let (one, two) = (Arc::new(node("one@h", "clients")), Arc::new(node("two@h", "clients")));
    let broker = one.app.broker().await.expect("a broker");
    let control = Control::new(Arc::clone(&broker)).timeout(Duration::from_millis(300));
    assert_eq!(control.workers().await.expect("no error"), [], "nobody is there, and nothing fails");
    control.tell("shutdown", Map::new()).await.expect("nobody listens, which is no error");

    let over = CancellationToken::new();
    let serving = [served(&one, &over).await, served(&two, &over).await];
    let names = |replies: Vec<Reply>| {
        let mut names: Vec<String> = replies.into_iter().map(|reply| reply.node).collect();
        names.sort();
        names
    };
    assert_eq!(names(control.ask("ping", Map::new()).await.expect("replies")), ["one@h", "two@h"]);
    let patient = control.timeout(Duration::from_secs(30));
    let begun = Instant::now();
    assert_eq!(names(patient.to(["two@h"]).ask("ping", Map::new()).await.expect("replies")), ["two@h"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "all that were asked had answered");
    assert_eq!(names(control.to(["three@h"]).ask("ping", Map::new()).await.expect("no error")), [""; 0]);

    let workers = control.workers().await.expect("workers");
    assert_eq!(workers.len(), 2);
    assert_eq!((workers[0].name.as_str(), workers[0].concurrency), ("one@h", Some(4)));
    assert_eq!((&workers[0].queues, workers[0].running), (&vec!["mail".to_owned()], Some(0)));

    control.to(["one@h"]).tell("shutdown", Map::new()).await.expect("sent");
    while !one.handle.is_stopping() {
        tokio::task::yield_now().await;
    }
    assert!(!two.handle.is_stopping());
    assert!(control.workers().await.expect("workers")[0].stopping, "it can still be asked");
    let left =
        control.wait_until_gone(&workers[..1], Some(Duration::from_millis(10))).await.expect("an answer");
    assert_eq!(left.len(), 1, "it still answers");
    over.cancel();
    for one in serving {
        one.await.expect("it ends");
    }
    let left = control.wait_until_gone(&workers, None).await.expect("an answer");
    assert_eq!(left, []);
    let left: Vec<_> =
        broker.queues(&[]).await.expect("a list").into_iter().map(|queue| queue.name).collect();
    assert_eq!(left, [""; 0], "no mailbox is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mailbox_that_was_deleted_comes_back() {
    let node = Arc::new(node("one@h", "deleted"));
    let over = CancellationToken::new();
    let serving = served(&node, &over).await;
    let broker = node.app.broker().await.expect("a broker");
    let old = mailboxes(&*broker).await;
    broker.delete_queue(&old[0]).await.expect("deleted");
    let control = Control::new(Arc::clone(&broker)).timeout(Duration::from_millis(200));
    while control.ask("ping", Map::new()).await.expect("no error").is_empty() {}
    assert_ne!(mailboxes(&*broker).await, old);
    over.cancel();
    serving.await.expect("it ends");
}
