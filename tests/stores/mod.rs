//! Result stores that refuse, fail, go away and come back: the errors that programs see, and that nothing is lost.

mod postgres;
mod redis;
mod workers;

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::backend::{self, Awaited, BackendOptions, ResultBackend, ResultRecord};
use mq_worker::{ConnectOptions, Error, QueueKind, State, TlsOptions};
use support::{eventually, unique, within};

const LIMIT: Duration = Duration::from_secs(40);

type Store = Arc<dyn ResultBackend>;

async fn open_with(url: &str, tls: TlsOptions) -> Store {
    let connect = ConnectOptions {
        timeout: Duration::from_secs(20),
        queue_kind: QueueKind::Quorum,
        tls,
        name: "test".into(),
    };
    let options = BackendOptions { connect, expires: Duration::from_secs(3600) };
    let broker = "memory://stores".parse().expect("a URL");
    backend::open(&broker, Some(&url.parse().expect("a URL")), &options).await.expect("nothing is sent yet")
}

async fn open(url: &str) -> Store {
    open_with(url, TlsOptions::default()).await
}

fn success(id: &str) -> ResultRecord {
    ResultRecord::success(id, b"42".to_vec()).expect("JSON")
}

/// Checks that a store works: stored results wake waiting callers and can be fetched by others.
async fn works(store: &Store) {
    let id = unique("task");
    let waiting = tokio::spawn({
        let (store, id) = (Arc::clone(store), id.clone());
        async move { store.wait(&id, Awaited::Final).await }
    });
    within("storing", LIMIT, store.store(&success(&id), None)).await.expect("stored");
    let record = within("a result", LIMIT, waiting).await.expect("no panic").expect("a result");
    assert_eq!(record.state, State::Success);
    assert!(store.fetch(&id).await.expect("fetched").is_some());
}

/// Stores many results at once, one of which the store cannot take: only that one fails, permanently.
async fn fails_alone(store: &Store, bad: &str) -> Error {
    let mut ids: Vec<String> = (0..30).map(|_| unique("task")).collect();
    ids.insert(20, bad.to_owned());
    let all = ids.iter().map(|id| async move { (id, store.store(&success(id), None).await) });
    let mut refused = None;
    for (id, stored) in within("storing", LIMIT, join_all(all)).await {
        match id == bad {
            true => refused = stored.err(),
            false => stored.expect("stored"),
        }
        assert_eq!(store.fetch(id).await.ok().flatten().is_some(), id != bad, "{id}");
    }
    let error = refused.expect("it is refused");
    assert!(error.is_permanent(), "{error:#}");
    error
}

/// Returns the error of a store that does not work, the same for every request and without any secret.
async fn refusal(store: &Store) -> Error {
    let id = unique("task");
    let fetched = within("fetching", LIMIT, store.fetch(&id)).await.map(drop);
    let stored = within("storing", LIMIT, store.store(&success(&id), None)).await;
    let waited = within("waiting", LIMIT, store.wait(&id, Awaited::Final)).await.map(drop);
    let [error, stored, waited] = [fetched, stored, waited].map(|done| done.expect_err("it is refused"));
    for error in [&error, &stored, &waited] {
        let text = format!("{error:#} {error:?}");
        assert!(
            !text.contains("secret") && text.contains("127.0.0.1") | text.contains("localhost"),
            "{text}"
        );
    }
    error
}

/// Stores like a worker, retrying until it succeeds; errors in between are fine.
async fn store_in_the_end(store: &Store, record: &ResultRecord) {
    eventually("it is stored", LIMIT, || async {
        match store.store(record, None).await {
            Ok(()) => Some(()),
            Err(error) => {
                assert!(!error.is_permanent(), "{error:#}");
                None
            }
        }
    })
    .await;
}

/// Callers wait while `interrupt` takes the store down and brings it back, and results are stored meanwhile: all of them
/// arrive, and earlier ones are still there.
async fn survives(url: &str, tls: TlsOptions, interrupt: impl FnOnce() + Send + 'static) {
    let (caller, worker) = (open_with(url, tls.clone()).await, open_with(url, tls).await);
    let before = unique("before");
    store_in_the_end(&worker, &success(&before)).await;
    let ids: Vec<String> = (0..40).map(|n| unique(&format!("task-{n}"))).collect();
    let begun = Arc::new(AtomicUsize::new(0));
    let waits = ids.iter().cloned().map(|id| {
        let (caller, begun) = (Arc::clone(&caller), Arc::clone(&begun));
        tokio::spawn(async move {
            let mut wait = caller.wait(&id, Awaited::Final);
            // From here on its first request is in flight.
            let first = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await;
            begun.fetch_add(1, Ordering::SeqCst);
            match first {
                Poll::Ready(record) => record,
                Poll::Pending => wait.await,
            }
        })
    });
    let waits: Vec<_> = waits.collect();
    let all_begun = || async { (begun.load(Ordering::SeqCst) == ids.len()).then_some(()) };
    eventually("all have begun to wait", LIMIT, all_begun).await;
    for _ in 0..20 {
        // Requests are answered in order, so the first ones are answered too: while the store is down those would fail at
        // once.
        caller.fetch("nothing").await.expect("an answer");
    }
    let probe = success(&unique("probe"));
    let (received, _) = tokio::join!(caller.wait(&probe.task_id, Awaited::Final), worker.store(&probe, None));
    received.expect("the probe is received");
    let interrupted = tokio::task::spawn_blocking(interrupt);
    for id in &ids {
        store_in_the_end(&worker, &success(id)).await;
    }
    interrupted.await.expect("it is back");
    for (id, wait) in ids.iter().zip(waits) {
        let record = within("a result", LIMIT, wait).await.expect("no panic").expect("a result");
        assert_eq!((&record.task_id, record.state), (id, State::Success));
    }
    let known = eventually("it answers again", LIMIT, || async { caller.fetch(&before).await.ok() }).await;
    assert!(known.is_some(), "what was stored before is still there");
    works(&caller).await;
}
