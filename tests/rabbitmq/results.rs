//! Results sent as messages.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::backend::{self, Awaited, BackendOptions, ResultBackend, ResultRecord};
use mq_worker::{Queue, State, TaskFailure, Topology};
use serde_json::Value;
use tokio::time::timeout;

use super::fixture::{Detour, Fixture, SOON, options, url};

async fn open(url: &str) -> Arc<dyn ResultBackend> {
    let options = BackendOptions { connect: options(), expires: Duration::from_secs(3600) };
    backend::open(&url.parse().expect("a URL"), None, &options).await.expect("rpc goes with RabbitMQ")
}

fn success(id: &str, json: &str) -> ResultRecord {
    ResultRecord::success(id, json.as_bytes().to_vec()).expect("JSON")
}

#[tokio::test]
async fn a_result_reaches_the_process_that_sent_the_task() {
    let Some(url) = url() else { return };
    let (caller, worker) = (open(&url).await, open(&url).await);
    let queue = caller.expect("a").await.expect("ready").expect("a queue");
    assert_eq!(caller.expect("b").await.expect("ready").as_ref(), Some(&queue));
    assert!(caller.fetch("a").await.expect("expected").is_none());
    let failure = TaskFailure {
        kind: "MailError".into(),
        module: "rust.test".into(),
        message: "boom".into(),
        traceback: None,
        arguments: Box::default(),
    };
    let retry = ResultRecord::failed("a", State::Retry, failure.clone());
    worker.store(&retry, Some(&queue)).await.expect("stored");
    worker.store(&success("a", "[1,2]"), Some(&queue)).await.expect("stored");
    // A final state is never overwritten.
    worker.store(&retry, Some(&queue)).await.expect("stored");
    worker.store(&ResultRecord::failed("b", State::Failure, failure), Some(&queue)).await.expect("stored");
    let b = timeout(SOON, caller.wait("b", Awaited::Final)).await.expect("in time").expect("a record");
    assert_eq!(b.failure.expect("a failure").message, "boom");
    let a = timeout(SOON, caller.wait("a", Awaited::Final)).await.expect("in time").expect("a record");
    assert_eq!((a.state, a.value.expect("a value").get()), (State::Success, "[1,2]"));
    caller.release("a");
    assert!(caller.fetch("a").await.expect("it is kept without a handle").is_some());
    let other = [caller.wait("other", Awaited::Final).await.map(drop), caller.fetch("other").await.map(drop)];
    for error in other {
        let error = error.expect_err("nobody expects it");
        assert!(
            error.is_unsupported() && error.to_string().contains("result_backend = \"redis://"),
            "{error}"
        );
    }
    caller.close().await;
    // The caller is gone, and its queue with it: not an error.
    worker.store(&success("a", "1"), Some(&queue)).await.expect("stored");
    worker.store(&success("a", "1"), None).await.expect("nobody asked");
    worker.close().await;
}

#[tokio::test]
async fn results_that_come_while_the_caller_is_away_are_not_lost() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let (caller, worker) = (open(&proxy.url).await, open(&url).await);
    let queue = caller.expect("a").await.expect("ready").expect("a queue");
    let waiting = {
        let caller = Arc::clone(&caller);
        tokio::spawn(async move { caller.wait("a", Awaited::Final).await })
    };
    proxy.refuse(true);
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(200)).await;
    worker.store(&success("a", "7"), Some(&queue)).await.expect("stored");
    proxy.refuse(false);
    let record = timeout(SOON, waiting).await.expect("in time").expect("no panic").expect("a record");
    assert_eq!(record.value.expect("a value").get(), "7");
    caller.close().await;
    worker.close().await;
}

/// The broker starts the consumer late: consuming twice would lose every second result.
#[tokio::test]
async fn every_result_comes_after_a_reconnect_that_was_slow() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let (caller, worker) = (open(&proxy.url).await, open(&url).await);
    let queue = caller.expect("first").await.expect("ready").expect("a queue");
    proxy.delay((60, 21), Duration::from_secs(7), 1);
    proxy.cut();
    for n in 0..6 {
        let id = n.to_string();
        caller.expect(&id).await.expect("ready");
        worker.store(&success(&id, &id), Some(&queue)).await.expect("stored");
        let record =
            timeout(SOON, caller.wait(&id, Awaited::Final)).await.expect("in time").expect("a record");
        assert_eq!(record.value.expect("a value").get(), id);
    }
    assert_eq!(proxy.delayed(), 1);
    caller.close().await;
    worker.close().await;
}

/// The name of a queue says whether its owner reads several results per message, which saves messages; any other caller gets
/// one message per result, as from Celery.
#[tokio::test]
async fn results_that_come_together_travel_together_to_a_caller_that_reads_them() {
    const RESULTS: usize = 300;
    let Some(t) = Fixture::new().await else { return };
    let worker = open(&t.url).await;
    let own = format!("mq.results.{}", t.name("own"));
    t.broker.declare(&Topology::of_queue(Queue::new(&*own))).await.expect("declared");
    let foreign = t.queue("foreign", |_| ()).await;
    for queue in [&own, &foreign] {
        let records: Vec<_> = (0..RESULTS).map(|n| success(&n.to_string(), &n.to_string())).collect();
        let stored = join_all(records.iter().map(|record| worker.store(record, Some(queue)))).await;
        assert!(stored.iter().all(Result::is_ok));
    }
    t.expect_ready(&foreign, RESULTS as u64).await;
    let mut messages = 0;
    let mut found = HashSet::new();
    while let Some(delivery) = t.broker.get(&own).await.expect("an answer") {
        messages += 1;
        let body: Value = serde_json::from_slice(&delivery.message.body).expect("JSON");
        let records = body.as_array().cloned().unwrap_or_else(|| vec![body]);
        found.extend(records.iter().map(|record| record["task_id"].as_str().expect("an id").to_owned()));
        delivery.ack();
    }
    assert_eq!(found.len(), RESULTS);
    assert!(messages < RESULTS / 10, "{messages} messages for {RESULTS} results");
    t.broker.delete_queue(&own).await.expect("deleted");
    worker.close().await;
    t.end().await;
}

/// Several concurrent callers in this process: each gets its own result out of one message.
#[tokio::test]
async fn each_caller_gets_its_result_of_those_that_came_together() {
    let Some(url) = url() else { return };
    let (caller, worker) = (open(&url).await, open(&url).await);
    let ids: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    let mut queue = None;
    for id in &ids {
        queue = caller.expect(id).await.expect("ready");
    }
    // One of them is far larger than the others, and one was revoked.
    let records = ids.iter().enumerate().map(|(n, id)| match n {
        7 => success(id, &format!("\"{}\"", "x".repeat(2 << 20))),
        8 => ResultRecord::new(id, State::Revoked),
        _ => success(id, id),
    });
    let records: Vec<_> = records.collect();
    let stored = join_all(records.iter().map(|record| worker.store(record, queue.as_deref()))).await;
    assert!(stored.iter().all(Result::is_ok));
    for record in &records {
        let wait = caller.wait(&record.task_id, Awaited::Final);
        let got = timeout(SOON, wait).await.expect("in time").expect("a record");
        let text = |record: &ResultRecord| record.value.as_ref().map(|value| value.get().to_owned());
        assert_eq!((&got.state, text(&got)), (&record.state, text(record)), "{}", record.task_id);
    }
    caller.close().await;
    worker.close().await;
}

#[tokio::test]
async fn results_by_message_need_rabbitmq() {
    let options = BackendOptions { connect: options(), expires: Duration::from_secs(60) };
    let (broker, url) = ("sqlite:x.db".parse().expect("a URL"), "rpc://".parse().expect("a URL"));
    let error = backend::open(&broker, Some(&url), &options).await.map(drop).expect_err("no RabbitMQ");
    assert!(error.is_config() && error.to_string().contains("sqlite:x.db"), "{error}");
}
