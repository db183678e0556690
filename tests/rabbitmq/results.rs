//! Results as messages.

use std::sync::Arc;
use std::time::Duration;

use mq_worker::backend::{self, Awaited, BackendOptions, ResultBackend, ResultRecord};
use mq_worker::{State, TaskFailure};
use tokio::time::timeout;

use super::fixture::{Detour, SOON, options, url};

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
    // The caller has gone, and its queue with it: no error.
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

/// The broker begins to hand out late: it is not asked twice, or every second result would go nowhere.
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

#[tokio::test]
async fn results_by_message_need_rabbitmq() {
    let options = BackendOptions { connect: options(), expires: Duration::from_secs(60) };
    let (broker, url) = ("sqlite:x.db".parse().expect("a URL"), "rpc://".parse().expect("a URL"));
    let error = backend::open(&broker, Some(&url), &options).await.map(drop).expect_err("no RabbitMQ");
    assert!(error.is_config() && error.to_string().contains("sqlite:x.db"), "{error}");
}
