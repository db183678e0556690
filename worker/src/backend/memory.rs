//! Results in the memory of this process, shared by all handles of the same name, on whatever runtime they are used.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Awaited, ResultBackend, ResultRecord};
use crate::connection::BrokerUrl;
use crate::error::{Error, Result};

/// The maximum number of expired records removed with each that is stored.
const AT_ONCE: usize = 20;

static STORES: LazyLock<Mutex<HashMap<String, Arc<Store>>>> = LazyLock::new(Mutex::default);

/// Opens the results of this process under the URL's name.
pub(super) fn open(url: &BrokerUrl, expires: Duration) -> Arc<dyn ResultBackend> {
    let mut stores = STORES.lock().expect("never poisoned");
    let store = Arc::clone(stores.entry(url.path().to_owned()).or_default());
    Arc::new(MemoryBackend { store, expires, closed: CancellationToken::new() })
}

struct MemoryBackend {
    store: Arc<Store>,
    expires: Duration,
    closed: CancellationToken,
}

#[derive(Default)]
struct Store(Mutex<Results>);

#[derive(Default)]
struct Results {
    records: HashMap<String, Kept>,
    /// When each record expires, roughly in order. A record that was written again is kept longer.
    ends: VecDeque<(Instant, String)>,
    /// Notified of each record of an id. An entry lives as long as a caller waits.
    waiting: HashMap<String, Arc<Notify>>,
}

struct Kept {
    record: ResultRecord,
    until: Option<Instant>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, Results> {
        self.0.lock().expect("never poisoned")
    }
}

impl Results {
    /// Removes some expired records, without searching for them. It runs for each new record, and can remove more than are
    /// added.
    fn expire(&mut self, now: Instant) {
        for _ in 0..AT_ONCE {
            if self.ends.front().is_none_or(|(end, _)| *end > now) {
                return;
            }
            let Some((_, id)) = self.ends.pop_front() else { return };
            if self.records.get(&id).is_some_and(|kept| kept.until.is_some_and(|until| until <= now)) {
                self.records.remove(&id);
            }
        }
    }

    fn get(&self, id: &str, now: Instant) -> Option<&ResultRecord> {
        let kept = self.records.get(id)?;
        kept.until.is_none_or(|until| now < until).then_some(&kept.record)
    }
}

impl MemoryBackend {
    fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }
}

fn closed() -> Error {
    Error::connection("this connection to the memory result backend was closed")
}

impl ResultBackend for MemoryBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        Box::pin(async move { self.check_open().map(|()| None) })
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(
        &'a self,
        record: &'a ResultRecord,
        _reply_to: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.check_open()?;
            let now = Instant::now();
            let mut results = self.store.lock();
            results.expire(now);
            if results.get(&record.task_id, now).is_some_and(|known| known.state.is_ready()) {
                return Ok(());
            }
            let until = now.checked_add(self.expires);
            if let Some(until) = until {
                results.ends.push_back((until, record.task_id.clone()));
            }
            results.records.insert(record.task_id.clone(), Kept { record: record.clone(), until });
            if let Some(waiting) = results.waiting.get(&record.task_id) {
                waiting.notify_waiters();
            }
            Ok(())
        })
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        Box::pin(async move {
            self.check_open()?;
            Ok(self.store.lock().get(id, Instant::now()).cloned())
        })
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        Box::pin(async move {
            self.check_open()?;
            let place = Waiter::new(&self.store, id);
            loop {
                // Listen before looking, so that a result stored in between is not missed.
                let notified = place.notify.notified();
                let known = self.store.lock().get(id, Instant::now()).cloned();
                if let Some(record) = known.filter(|record| awaited.is_met_by(record)) {
                    return Ok(record);
                }
                tokio::select! {
                    () = notified => {}
                    () = self.closed.cancelled() => return Err(closed()),
                }
            }
        })
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.check_open()?;
            self.store.lock().records.remove(id);
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.closed.cancel() })
    }
}

/// A waiting caller. The last one for an id removes its entry.
struct Waiter<'a> {
    store: &'a Store,
    id: &'a str,
    notify: Arc<Notify>,
}

impl<'a> Waiter<'a> {
    fn new(store: &'a Store, id: &'a str) -> Self {
        let notify = Arc::clone(store.lock().waiting.entry(id.to_owned()).or_default());
        Self { store, id, notify }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut results = self.store.lock();
        // The references of the map and of this waiter; others are only created under the lock.
        if Arc::strong_count(&self.notify) == 2 {
            results.waiting.remove(self.id);
        }
    }
}
