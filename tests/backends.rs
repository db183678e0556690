//! The conformance suite of result backends: callers get their results from every backend in the same way.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::backend::{self, Awaited, BackendOptions, ResultBackend, ResultRecord};
use mq_worker::{BrokerUrl, ConnectOptions, QueueKind, State, TaskFailure, TlsOptions};
use serde_json::value::to_raw_value;
use support::{shared, unique, within};

const LIMIT: Duration = Duration::from_secs(20);
const QUIET: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Sqlite,
    /// Results are messages to the caller's own queue: only the caller sees them.
    Rpc,
    /// Shared with Celery.
    Redis,
    Postgres,
}

struct Lab {
    kind: Kind,
    broker: BrokerUrl,
    store: Option<BrokerUrl>,
    _directory: Option<tempfile::TempDir>,
}

impl Lab {
    fn new(kind: Kind) -> Option<Lab> {
        let mut directory = None;
        let mut store = None;
        let broker = match kind {
            Kind::Redis => {
                store = Some(support::redis::shared(file!())?);
                "memory://".to_owned()
            }
            Kind::Postgres => {
                store = Some(support::postgres::shared(file!())?);
                "memory://".to_owned()
            }
            Kind::Memory => format!("memory://{}", unique("results")),
            Kind::Sqlite => {
                let place = directory.insert(support::temp_dir());
                format!("sqlite:{}", place.path().join("results.db").display())
            }
            Kind::Rpc => shared::rabbitmq(file!())?.url,
        };
        let broker = broker.parse().expect("a URL");
        let store = store.map(|url| url.parse().expect("a URL"));
        Some(Lab { kind, broker, store, _directory: directory })
    }

    /// Opens another connection to the backend that goes with the broker.
    async fn open(&self) -> Arc<dyn ResultBackend> {
        self.open_keeping(Duration::from_secs(3600)).await
    }

    async fn open_keeping(&self, expires: Duration) -> Arc<dyn ResultBackend> {
        let connect = ConnectOptions {
            timeout: LIMIT,
            queue_kind: QueueKind::Quorum,
            tls: TlsOptions::default(),
            name: "conformance".into(),
        };
        let options = BackendOptions { connect, expires };
        within("open", LIMIT, backend::open(&self.broker, self.store.as_ref(), &options))
            .await
            .expect("the backend opens")
    }
}

fn success(id: &str, json: &str) -> ResultRecord {
    ResultRecord::success(id, json.as_bytes().to_vec()).expect("JSON")
}

/// An exception with three arguments; its text lists all of them, as Python callers see it.
fn failure(message: &str) -> TaskFailure {
    TaskFailure {
        kind: "MailError".into(),
        module: "rust.notifications".into(),
        message: format!("{message}, 42, [\"ü\"]"),
        traceback: Some("at line 1\nat line 2 – größer".into()),
        arguments: [message.into(), 42.into(), vec!["ü"].into()].into(),
    }
}

async fn expect(caller: &Arc<dyn ResultBackend>, id: &str) -> Option<String> {
    within("expect", LIMIT, caller.expect(id)).await.expect("a place for the reply")
}

async fn store(worker: &Arc<dyn ResultBackend>, record: &ResultRecord, reply_to: &Option<String>) {
    within("store", LIMIT, worker.store(record, reply_to.as_deref())).await.expect("the result is stored");
}

async fn fetch(caller: &Arc<dyn ResultBackend>, id: &str) -> Option<ResultRecord> {
    within("fetch", LIMIT, caller.fetch(id)).await.expect("an answer")
}

async fn wait(caller: &Arc<dyn ResultBackend>, id: &str) -> ResultRecord {
    within("a result", LIMIT, caller.wait(id, Awaited::Final)).await.expect("a result")
}

fn value(record: &ResultRecord) -> &str {
    record.value.as_ref().expect("a value").get()
}

macro_rules! suite {
    ($($case:ident)*) => {
        suite!(@backend memory, Kind::Memory, $($case)*);
        suite!(@backend sqlite, Kind::Sqlite, $($case)*);
        suite!(@backend rpc, Kind::Rpc, $($case)*);
        suite!(@backend redis, Kind::Redis, $($case)*);
        suite!(@backend postgres, Kind::Postgres, $($case)*);
    };
    (@backend $backend:ident, $kind:expr, $($case:ident)*) => {
        mod $backend {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    if let Some(lab) = Lab::new($kind) {
                        cases::$case(&lab).await;
                    }
                }
            )*
        }
    };
}

suite! {
    a_result_is_stored_and_fetched
    a_later_result_wakes_the_caller
    a_failure_arrives_with_all_its_parts
    states_before_the_end_do_not_end_the_waiting
    a_final_state_is_not_overwritten
    an_unknown_task_has_no_result
    many_wait_at_once
    ten_thousand_wait_and_cost_nothing
    two_may_wait_for_one_result
    a_wait_can_be_abandoned_and_restarted
    a_large_value_arrives
    a_change_ends_the_waiting_for_one
    a_result_that_is_forgotten_is_gone
    every_field_of_a_result_arrives
    results_expire
    closing_ends_the_waiting
}

mod cases {
    use super::*;

    pub(super) async fn a_result_is_stored_and_fetched(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        for json in ["null", "42", "\"héllo\"", r#"{"a":[1,2.5,null],"b":{"ü":"名前"}}"#] {
            let id = unique("task");
            let reply_to = expect(&caller, &id).await;
            assert_eq!(reply_to.is_some(), lab.kind == Kind::Rpc);
            store(&worker, &success(&id, json), &reply_to).await;
            let waited = wait(&caller, &id).await;
            assert_eq!((waited.state.clone(), value(&waited)), (State::Success, json));
            assert_eq!(waited.task_id, id);
            assert!(waited.done_at.is_some());
            let fetched = fetch(&caller, &id).await.expect("it is known now");
            assert_eq!((fetched.state.clone(), value(&fetched)), (State::Success, json));
        }
    }

    pub(super) async fn a_later_result_wakes_the_caller(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        let waiting = {
            let (caller, id) = (Arc::clone(&caller), id.clone());
            tokio::spawn(async move { wait(&caller, &id).await })
        };
        tokio::time::sleep(QUIET).await;
        assert!(!waiting.is_finished(), "nothing is stored yet");
        store(&worker, &success(&id, "1"), &reply_to).await;
        assert_eq!(value(&waiting.await.expect("no panic")), "1");
    }

    pub(super) async fn a_failure_arrives_with_all_its_parts(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        for state in [State::Failure, State::Revoked] {
            let id = unique("task");
            let reply_to = expect(&caller, &id).await;
            let sent = ResultRecord::failed(&id, state.clone(), failure("no such mailbox: 名前@example.org"));
            store(&worker, &sent, &reply_to).await;
            let record = wait(&caller, &id).await;
            assert_eq!((&record.state, &record.failure), (&state, &sent.failure));
            assert!(record.value.is_none());
        }
    }

    pub(super) async fn states_before_the_end_do_not_end_the_waiting(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        let waiting = {
            let (caller, id) = (Arc::clone(&caller), id.clone());
            tokio::spawn(async move { wait(&caller, &id).await })
        };
        let started = ResultRecord::new(&*id, State::Started);
        store(&worker, &started, &reply_to).await;
        store(&worker, &ResultRecord::failed(&id, State::Retry, failure("try again")), &reply_to).await;
        let seen = support::eventually("the retry is seen", LIMIT, || async {
            fetch(&caller, &id).await.filter(|record| record.state == State::Retry)
        });
        let seen = seen.await;
        assert_eq!(seen.failure, Some(failure("try again")));
        assert!(!waiting.is_finished(), "a retry is not the end");
        store(&worker, &success(&id, "true"), &reply_to).await;
        assert_eq!(waiting.await.expect("no panic").state, State::Success);
    }

    pub(super) async fn a_final_state_is_not_overwritten(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        store(&worker, &success(&id, "\"first\""), &reply_to).await;
        assert_eq!(value(&wait(&caller, &id).await), "\"first\"");
        // A duplicate run that finishes later.
        store(&worker, &ResultRecord::failed(&id, State::Retry, failure("late")), &reply_to).await;
        store(&worker, &ResultRecord::failed(&id, State::Failure, failure("late")), &reply_to).await;
        store(&worker, &success(&id, "\"second\""), &reply_to).await;
        tokio::time::sleep(QUIET).await;
        assert_eq!(value(&fetch(&caller, &id).await.expect("known")), "\"first\"");
        assert_eq!(value(&wait(&caller, &id).await), "\"first\"");
    }

    pub(super) async fn an_unknown_task_has_no_result(lab: &Lab) {
        let caller = lab.open().await;
        let id = unique("task");
        let _ = expect(&caller, &id).await;
        assert!(fetch(&caller, &id).await.is_none());
        assert!(
            tokio::time::timeout(QUIET, caller.wait(&id, Awaited::Final)).await.is_err(),
            "there is nothing to get"
        );
    }

    pub(super) async fn many_wait_at_once(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let calls = join_all((0..200).map(|n| {
            let caller = Arc::clone(&caller);
            async move {
                let id = unique(&format!("task-{n}"));
                let reply_to = expect(&caller, &id).await;
                (n, id, reply_to)
            }
        }))
        .await;
        let waits: Vec<_> = calls
            .iter()
            .map(|(n, id, _)| {
                let (caller, n, id) = (Arc::clone(&caller), *n, id.clone());
                tokio::spawn(async move { (n, wait(&caller, &id).await) })
            })
            .collect();
        // In reverse order: each result must find its own caller.
        for (n, id, reply_to) in calls.iter().rev() {
            store(&worker, &success(id, &n.to_string()), reply_to).await;
        }
        for outcome in within("all results", LIMIT, join_all(waits)).await {
            let (n, record) = outcome.expect("no panic");
            assert_eq!(value(&record), n.to_string());
        }
    }

    pub(super) async fn ten_thousand_wait_and_cost_nothing(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let prefix = unique("task");
        let mut waits = Vec::new();
        let mut last = None;
        for n in 0..10_000 {
            let id = format!("{prefix}-{n}");
            last = expect(&caller, &id).await;
            let caller = Arc::clone(&caller);
            waits.push(tokio::spawn(async move { (n, caller.wait(&id, Awaited::Final).await) }));
        }
        // On a busy machine it takes a while until all of them are waiting.
        for n in [9_999, 0, 5_000] {
            store(&worker, &success(&format!("{prefix}-{n}"), &n.to_string()), &last).await;
            let (n, record) = within("one of many", LIMIT * 3, waits.remove(n)).await.expect("no panic");
            assert_eq!(value(&record.expect("a result")), n.to_string());
            waits.insert(n, tokio::spawn(std::future::pending()));
        }
        waits.iter().for_each(tokio::task::JoinHandle::abort);
    }

    pub(super) async fn two_may_wait_for_one_result(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        let waits = (0..2).map(|_| {
            let (caller, id) = (Arc::clone(&caller), id.clone());
            tokio::spawn(async move { wait(&caller, &id).await })
        });
        let waits: Vec<_> = waits.collect();
        store(&worker, &success(&id, "1"), &reply_to).await;
        for outcome in join_all(waits).await {
            assert_eq!(value(&outcome.expect("no panic")), "1");
        }
    }

    pub(super) async fn a_wait_can_be_abandoned_and_restarted(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        assert!(tokio::time::timeout(QUIET, caller.wait(&id, Awaited::Final)).await.is_err());
        store(&worker, &success(&id, "1"), &reply_to).await;
        assert_eq!(value(&wait(&caller, &id).await), "1");
        caller.release(&id);
        // Storing a result without a waiting caller is not an error.
        store(&worker, &success(&unique("task"), "2"), &reply_to).await;
    }

    pub(super) async fn a_large_value_arrives(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let json = format!("\"{}\"", "x".repeat(1024 * 1024));
        let reply_to = expect(&caller, &id).await;
        store(&worker, &success(&id, &json), &reply_to).await;
        assert!(value(&wait(&caller, &id).await) == json, "the value was changed");
    }

    pub(super) async fn a_change_ends_the_waiting_for_one(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        let mut known = None;
        for n in 1..=3 {
            let waiting = {
                let (caller, id) = (Arc::clone(&caller), id.clone());
                tokio::spawn(async move { caller.wait(&id, Awaited::Change(known)).await })
            };
            tokio::time::sleep(QUIET).await;
            assert!(!waiting.is_finished(), "nothing is new");
            let meta = to_raw_value(&n).expect("JSON");
            store(&worker, &ResultRecord::report(&*id, State::from("COUNTING".to_owned()), meta), &reply_to)
                .await;
            let seen = within("a change", LIMIT, waiting).await.expect("no panic").expect("a record");
            assert_eq!((seen.state.as_str(), value(&seen)), ("COUNTING", &*n.to_string()));
            known = Some(seen.mark());
        }
        store(&worker, &success(&id, "4"), &reply_to).await;
        let last =
            within("the end", LIMIT, caller.wait(&id, Awaited::Change(known))).await.expect("a record");
        assert_eq!(value(&last), "4");
        // A late report changes nothing.
        store(&worker, &ResultRecord::new(&*id, State::Started), &reply_to).await;
        let known = Awaited::Change(Some(last.mark()));
        assert!(tokio::time::timeout(QUIET, caller.wait(&id, known)).await.is_err(), "that was the end");
    }

    pub(super) async fn a_result_that_is_forgotten_is_gone(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        within("forget", LIMIT, caller.forget(&id)).await.expect("there is nothing to forget");
        store(&worker, &success(&id, "1"), &reply_to).await;
        wait(&caller, &id).await;
        within("forget", LIMIT, caller.forget(&id)).await.expect("it is deleted");
        assert!(fetch(&caller, &id).await.is_none());
    }

    pub(super) async fn every_field_of_a_result_arrives(lab: &Lab) {
        let (caller, worker) = (lab.open().await, lab.open().await);
        let id = unique("task");
        let reply_to = expect(&caller, &id).await;
        let mut sent = success(&id, "1");
        (sent.worker, sent.retries) = (Some("w@host".into()), Some(2));
        sent.children = vec!["a".into(), "b".into()];
        store(&worker, &sent, &reply_to).await;
        assert_eq!(wait(&caller, &id).await.mark(), sent.mark());
    }

    pub(super) async fn results_expire(lab: &Lab) {
        if lab.kind == Kind::Rpc {
            // Results are kept by the caller, which decides for how long.
            return;
        }
        let backend = lab.open_keeping(Duration::from_millis(1200)).await;
        let id = unique("task");
        store(&backend, &success(&id, "1"), &None).await;
        assert!(fetch(&backend, &id).await.is_some());
        support::eventually("the result is forgotten", LIMIT, || async {
            fetch(&backend, &id).await.is_none().then_some(())
        })
        .await;
    }

    pub(super) async fn closing_ends_the_waiting(lab: &Lab) {
        let caller = lab.open().await;
        let id = unique("task");
        let _ = expect(&caller, &id).await;
        let waiting = {
            let (caller, id) = (Arc::clone(&caller), id.clone());
            tokio::spawn(async move { caller.wait(&id, Awaited::Final).await })
        };
        tokio::time::sleep(QUIET).await;
        within("close", LIMIT, caller.close()).await;
        let outcome = within("the waiting ends", LIMIT, waiting).await.expect("no panic");
        assert!(outcome.is_err(), "there is no result");
        assert!(within("fetch", LIMIT, caller.fetch(&id)).await.is_err(), "it is closed");
    }
}

#[tokio::test]
async fn no_backend_at_all_says_so() {
    let connect = ConnectOptions {
        timeout: LIMIT,
        queue_kind: QueueKind::Quorum,
        tls: TlsOptions::default(),
        name: "conformance".into(),
    };
    let options = BackendOptions { connect, expires: LIMIT };
    let broker: BrokerUrl = "memory://".parse().expect("a URL");
    let none: BrokerUrl = "none:".parse().expect("a URL");
    let backend = backend::open(&broker, Some(&none), &options).await.expect("none opens always");
    assert_eq!(expect(&backend, "id").await, None);
    store(&backend, &success("id", "1"), &None).await;
    for error in [
        backend.fetch("id").await.expect_err("none"),
        backend.wait("id", Awaited::Final).await.expect_err("none"),
    ] {
        assert!(error.is_unsupported() && error.to_string().contains("none:"), "{error}");
    }
    let odd: BrokerUrl = "pigeon:".parse().expect("a URL");
    let error = backend::open(&broker, Some(&odd), &options).await.err().expect("no such backend");
    assert!(error.is_config(), "{error:?}");
}
