//! The result backend.

use std::sync::Arc;
use std::time::Duration;

use mq_worker::backend::{self, Awaited, BackendOptions, ResultBackend, ResultRecord};
use mq_worker::{State, TaskFailure};

use super::*;

async fn results(path: &Path, expires: Duration) -> Arc<dyn ResultBackend> {
    let options = BackendOptions { connect: options(Duration::from_secs(10)), expires };
    backend::open(&url(path), None, &options).await.expect("the file opens")
}

fn success(id: &str, json: &str) -> ResultRecord {
    ResultRecord::success(id, json.as_bytes().to_vec()).expect("JSON")
}

#[tokio::test]
async fn the_first_final_state_stays() {
    let dir = tempfile::tempdir().unwrap();
    let backend = results(&dir.path().join("r.db"), Duration::from_secs(60)).await;
    assert!(backend.fetch("id").await.expect("readable").is_none());
    assert_eq!(backend.expect("id").await.expect("nothing to do"), None);
    let failure = TaskFailure {
        kind: "E".into(),
        module: "m".into(),
        message: "boom".into(),
        traceback: None,
        arguments: Box::default(),
    };
    let retry = ResultRecord::failed("id", State::Retry, failure.clone());
    backend.store(&retry, None).await.expect("stored");
    assert_eq!(backend.fetch("id").await.unwrap().expect("one").state, State::Retry);
    backend.store(&success("id", "42"), None).await.expect("stored");
    let late = ResultRecord::failed("id", State::Failure, failure);
    backend.store(&late, None).await.expect("ignored");
    backend.store(&retry, None).await.expect("ignored");
    let record = backend.wait("id", Awaited::Final).await.expect("ready");
    assert_eq!((record.state, record.value.expect("a value").get()), (State::Success, "42"));
}

#[tokio::test]
async fn waiting_ends_with_the_final_state_in_this_process() {
    let dir = tempfile::tempdir().unwrap();
    let backend = results(&dir.path().join("r.db"), Duration::from_secs(60)).await;
    let waits: Vec<_> = (0..50)
        .map(|index| {
            let backend = Arc::clone(&backend);
            tokio::spawn(async move { backend.wait(&format!("id-{}", index % 25), Awaited::Final).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for index in 0..25 {
        let started = ResultRecord::new(format!("id-{index}"), State::Started);
        backend.store(&started, None).await.expect("stored");
        backend.store(&success(&format!("id-{index}"), &index.to_string()), None).await.expect("stored");
    }
    for (index, wait) in waits.into_iter().enumerate() {
        let record = tokio::time::timeout(TIMEOUT, wait).await.expect("in time").unwrap().expect("ready");
        assert_eq!(record.value.expect("a value").get(), (index % 25).to_string());
    }
}

#[tokio::test]
async fn waiting_ends_with_the_final_state_from_another_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    let backend = results(&path, Duration::from_secs(60)).await;
    let waiting = {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move { backend.wait("from-afar", Awaited::Final).await })
    };
    // Requests are processed in order, so the wait has started.
    backend.fetch("from-afar").await.expect("readable");
    tokio::task::spawn_blocking(move || roles::run("store", &path, "from-afar")).await.expect("no panic");
    let record = tokio::time::timeout(TIMEOUT, waiting).await.expect("in time").unwrap().expect("ready");
    assert_eq!(record.value.expect("a value").get(), "\"from afar\"");
}

#[tokio::test]
async fn results_expire() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r.db");
    let backend = results(&path, Duration::from_secs(1)).await;
    backend.store(&success("id", "1"), None).await.expect("stored");
    assert!(backend.fetch("id").await.unwrap().is_some());
    until("it is gone", async || backend.fetch("id").await.unwrap().is_none()).await;
    // An expired result no longer counts as stored.
    backend.store(&success("id", "2"), None).await.expect("stored");
    assert_eq!(backend.fetch("id").await.unwrap().expect("one").value.expect("a value").get(), "2");
}

#[tokio::test]
async fn a_broker_and_a_backend_share_one_thread() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let _broker = open(&path).await;
    let _backend = results(&path, Duration::from_secs(60)).await;
    let _again = open(&dir.path().join("./jobs.db")).await;
    let fds = std::fs::read_dir("/proc/self/fd").expect("Linux");
    let wal = dir.path().canonicalize().unwrap().join("jobs.db-wal");
    let opened = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok()).filter(|path| *path == wal);
    assert_eq!(opened.count(), 1);
}
