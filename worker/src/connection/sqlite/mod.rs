//! One SQLite file as a connection: a named thread per file owns it and does everything that callers ask for,
//! many jobs to a transaction.
//!
//! [`Database`] is the handle. The broker and the result backend of one file share one handle, one thread and one
//! transaction: what arrives while a commit waits for the disk goes into the next one together.
//!
//! From the bottom up, since a file imports none that imports it:
//!
//! - [`claim`], [`consumer`], [`lease`], [`queue`], [`waiters`]: what is known between two transactions, as data;
//! - [`engine`]: the open file with all that, and what a transaction changes of it;
//! - [`job`]: a closure over the engine, with the way back to its caller;
//! - [`messages`], [`claims`], [`consumers`], [`owners`], [`queues`], [`exchanges`], [`removal`], [`results`], [`memos`],
//!   [`schedule_log`], [`finding`]: what can be done in a transaction; they call each other as methods of the engine;
//! - [`transaction`], [`chores`]: the order of things in a transaction, and what is due without a job;
//! - [`thread`]: the loop: inbox, deadlines, timers.
//!
//! Beside them, [`schema`], [`path`], [`presence`], [`bell`]: the file, its name, whether it is still there, and how its
//! processes wake each other.

mod bell;
mod chores;
mod claim;
mod claims;
mod consumer;
mod consumers;
mod engine;
mod exchanges;
pub(crate) mod failure;
mod finding;
pub(crate) mod head;
pub(crate) mod job;
mod lease;
mod memos;
mod messages;
mod owners;
mod path;
mod presence;
mod queue;
mod queues;
mod removal;
mod results;
pub(crate) mod schedule_log;
mod schema;
#[cfg(test)]
mod tests;
mod thread;
mod transaction;
mod waiters;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Weak, mpsc};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;

pub(crate) use claim::{Claimed, Ending};
pub(crate) use claims::{close, flush, get};
pub(crate) use consumer::{Consuming, Sink};
pub(crate) use consumers::{cancel, consume, set_prefetch, set_queues};
pub(crate) use finding::{Sighted, Spot};
pub(crate) use memos::Noted;
pub(crate) use messages::{Publishing, publish};
pub(crate) use queues::Count;
pub(crate) use results::{Acked, Storing, forget, store};
pub(crate) use waiters::News;

use crate::connection::{BrokerUrl, background};
use crate::error::{Error, Result};
use crate::show;
use job::{Job, Run};
use thread::Arrival;

/// The files that this process has open, by canonical path. Two handles of one file would be two threads that
/// wait for each other's locks.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Database>>>> = LazyLock::new(Mutex::default);

/// An id for clients and consumers, unique within this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that is unique in this process.
pub(crate) fn fresh_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// An open file. The thread ends, and requeues what is claimed, when the last handle is dropped.
pub(crate) struct Database {
    path: Arc<Path>,
    /// Unbounded: callers wait for their answers, claims are bounded by prefetch, and news is counted once, so
    /// that no more can lie in it than there are callers and claims.
    inbox: mpsc::Sender<Arrival>,
    /// True while an [`Arrival::Changed`] lies in the inbox.
    noticed: Arc<AtomicBool>,
    loss: Arc<Mutex<Option<Loss>>>,
}

/// Since when the file is not there any more, and what has become of it.
type Loss = (DateTime<Utc>, String);

/// Checks that there is a database of ours already, for those who must not make one.
///
/// # Errors
/// There is none: no file, an empty one, or one that is not ours.
#[cfg(feature = "cli")]
pub(crate) fn must_exist(url: &BrokerUrl) -> Result<()> {
    schema::must_exist(&path::resolve(url)?)
}

/// True when both name one file.
pub(crate) fn is_same_file(one: &BrokerUrl, other: &BrokerUrl) -> bool {
    path::resolve(one).is_ok_and(|one| path::resolve(other).is_ok_and(|other| one == other))
}

impl Database {
    /// The handle of the file that a URL names.
    ///
    /// # Errors
    /// A URL with a mistake, or a file that cannot be opened or is not ours.
    pub(crate) async fn open(url: &BrokerUrl, timeout: Duration) -> Result<Arc<Self>> {
        let path = path::resolve(url)?;
        let database = Self::shared(path, path::absolute(url))?;
        let (reply, opened) = oneshot::channel();
        database.send(Arrival::Open { deadline: give_up_at(timeout), reply });
        let act = "open the database";
        let opened = database.answer_within(act, opened, timeout).await;
        opened.unwrap_or_else(|| Err(database.no_answer(act, timeout)))?;
        Ok(database)
    }

    fn shared(path: PathBuf, named: PathBuf) -> Result<Arc<Self>> {
        let mut open = OPEN.lock().expect("never poisoned: nothing panics under it");
        if let Some(database) = open.get(&path).and_then(Weak::upgrade) {
            return Ok(database);
        }
        let (inbox, arrivals) = mpsc::channel();
        let noticed = Arc::new(AtomicBool::new(false));
        let loss = Arc::new(Mutex::new(None));
        let database = Arc::new(Self {
            path: path.as_path().into(),
            inbox,
            noticed: Arc::clone(&noticed),
            loss: Arc::clone(&loss),
        });
        let shared = thread::Shared { named, noticed, loss, database: Arc::downgrade(&database) };
        thread::start(Arc::clone(&database.path), arrivals, shared)?;
        open.retain(|_, database| database.strong_count() > 0);
        open.insert(path, Arc::downgrade(&database));
        Ok(database)
    }

    /// Does a job, and waits for its answer no longer than `timeout`.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        job: Job<T, impl Run<T>>,
        timeout: Duration,
    ) -> impl Future<Output = Result<T>> + Send {
        let act = job.act();
        let answer = self.ask(job, timeout);
        async move { answer.await.unwrap_or_else(|| Err(self.no_answer(act, timeout))) }
    }

    /// As [`call`](Self::call), where it matters that it is not known what became of the job: `None`.
    ///
    /// The job is packed before the future is made, which would be large with it.
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        job: Job<T, impl Run<T>>,
        timeout: Duration,
    ) -> impl Future<Output = Option<Result<T>>> + Send {
        let act = job.act();
        let (order, answer) = job.order(give_up_at(timeout));
        async move {
            self.send(Arrival::Order(order));
            self.answer_within(act, answer, timeout).await
        }
    }

    /// Does a job, and waits for its answer however long it takes.
    pub(crate) async fn call_patiently<T: Send + 'static>(&self, job: Job<T, impl Run<T>>) -> Result<T> {
        let act = job.act();
        let (order, answer) = job.order(None);
        self.send(Arrival::Order(order));
        self.answer(act, answer).await
    }

    /// The answer, when it comes.
    pub(crate) async fn answer<T>(&self, act: &str, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        answer.await.unwrap_or_else(|_| {
            let path = self.path.display();
            Err(Error::connection(format!("cannot {act}: the thread of `{path}` has ended")))
        })
    }

    async fn answer_within<T>(
        &self,
        act: &str,
        answer: oneshot::Receiver<Result<T>>,
        timeout: Duration,
    ) -> Option<Result<T>> {
        match background::timeout(timeout, self.answer(act, answer)).await {
            Ok(answer) => answer,
            Err(error) => Some(Err(error)),
        }
    }

    fn no_answer(&self, act: &str, timeout: Duration) -> Error {
        let (path, timeout) = (self.path.display(), show::duration(timeout));
        Error::timeout(format!("cannot {act}: no answer from `{path}` within {timeout}"))
    }

    /// When the thread has gone, the way back goes with what is sent, and the receiver says so.
    fn send(&self, arrival: Arrival) {
        let _ = self.inbox.send(arrival);
    }

    /// What has become of the file, when it is not at its path any more.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.loss.lock().expect("never poisoned: nothing panics under it").clone()
    }

    /// Ends a claim. Does not wait.
    pub(crate) fn settle(&self, tag: u64, ending: Ending) {
        self.send(Arrival::Settle { tag, ending });
    }

    /// Another process has rung.
    fn notice(&self) {
        if !self.noticed.swap(true, Ordering::AcqRel) {
            self.send(Arrival::Changed);
        }
    }
}

/// Until when the thread may begin a job. It gives up a little earlier than the caller: what it has not begun has
/// surely not been done, while a caller who gives up first cannot know.
fn give_up_at(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout - (timeout / 10).min(Duration::from_millis(500)))
}
