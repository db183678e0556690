//! One SQLite file as a connection: a named thread per file owns it and runs the jobs of all callers, many to a
//! transaction.
//!
//! [`Database`] is the handle. The broker and the result backend of one file share one handle, one thread and one
//! transaction: everything that arrives while a commit waits for the disk goes into the next one.
//!
//! The modules from the bottom up; there are no import cycles:
//!
//! - [`claim`], [`consumer`], [`lease`], [`queue`], [`waiters`]: the state in memory, as plain data;
//! - [`engine`]: the open file with that state, and the changes that a transaction makes to it;
//! - [`job`]: a closure over the engine, with the channel that answers its caller;
//! - [`messages`], [`claims`], [`consumers`], [`owners`], [`queues`], [`exchanges`], [`removal`], [`results`], [`registers`],
//!   [`schedule_log`], [`finding`]: the operations within a transaction; they call each other as methods of the engine;
//! - [`transaction`], [`chores`]: the steps of a transaction, and work that is due without a job;
//! - [`thread`]: the event loop with its inbox, deadlines and timers.
//!
//! Beside them, [`schema`], [`path`], [`presence`], [`bell`] and [`busy`] deal with the file: its tables, its name, whether it
//! still exists, how processes that share it wake each other, and how they wait for its lock.

mod bell;
mod busy;
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
mod messages;
mod owners;
mod path;
mod presence;
mod queue;
mod queues;
mod registers;
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

pub(crate) use claim::{ClaimEnd, Claimed};
pub(crate) use claims::{close, flush, get};
pub(crate) use consumer::{Consuming, Sink};
pub(crate) use consumers::{cancel, consume, set_prefetch, set_queues};
pub(crate) use finding::{FoundRow, RowPosition};
pub(crate) use messages::{Publishing, publish};
pub(crate) use queues::Count;
pub(crate) use registers::NoteRow;
pub(crate) use results::{Acked, Storing, forget, store};
pub(crate) use waiters::WaitFor;

use crate::connection::{BrokerUrl, background};
use crate::error::{Error, Result};
use crate::show;
use job::{Job, Run};
use thread::Arrival;

/// The files that this process has open, by canonical path. Two handles of one file would mean two threads that wait
/// for each other's locks.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Database>>>> = LazyLock::new(Mutex::default);

/// The next id of a client, consumer, tag or token.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Returns a number that is unique in this process.
pub(crate) fn fresh_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// An open file. When the last handle is dropped, the thread requeues all claimed messages and stops.
pub(crate) struct Database {
    path: Arc<Path>,
    /// Unbounded, but it never holds more than one entry per waiting caller and per claim: claims are bounded by the prefetch,
    /// and [`Arrival::Changed`] is queued only once.
    inbox: mpsc::Sender<Arrival>,
    /// True while an [`Arrival::Changed`] is queued in the inbox.
    noticed: Arc<AtomicBool>,
    loss: Arc<Mutex<Option<Loss>>>,
}

/// Since when the file has been missing, and what happened to it.
type Loss = (DateTime<Utc>, String);

/// Checks that the file already is one of our databases, for commands that must not create it.
///
/// # Errors
/// No file, an empty one, or one that is not ours.
#[cfg(feature = "cli")]
pub(crate) fn must_exist(url: &BrokerUrl) -> Result<()> {
    schema::must_exist(&path::resolve(url)?)
}

/// True if both URLs name the same file.
pub(crate) fn is_same_file(one: &BrokerUrl, other: &BrokerUrl) -> bool {
    path::resolve(one).is_ok_and(|one| path::resolve(other).is_ok_and(|other| one == other))
}

impl Database {
    /// Opens the file that a URL names, or returns the handle that this process already has.
    ///
    /// # Errors
    /// An invalid URL, or a file that cannot be opened or is not ours.
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

    /// Runs a job, and waits for its answer for at most `timeout`.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        job: Job<T, impl Run<T>>,
        timeout: Duration,
    ) -> impl Future<Output = Result<T>> + Send {
        let act = job.act();
        let answer = self.ask(job, timeout);
        async move { answer.await.unwrap_or_else(|| Err(self.no_answer(act, timeout))) }
    }

    /// Like [`call`](Self::call), but returns `None` on a timeout, when it is unknown whether the job was or will be done.
    ///
    /// The job is boxed before the future is created, to keep the future small.
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

    /// Runs a job, and waits for its answer without a timeout.
    pub(crate) async fn call_without_timeout<T: Send + 'static>(
        &self,
        job: Job<T, impl Run<T>>,
    ) -> Result<T> {
        let act = job.act();
        let (order, answer) = job.order(None);
        self.send(Arrival::Order(order));
        self.answer(act, answer).await
    }

    /// Waits for an answer of the thread.
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

    /// Sends to the thread. If it has stopped, the reply channel is dropped with the arrival, and the caller gets an error.
    fn send(&self, arrival: Arrival) {
        let _ = self.inbox.send(arrival);
    }

    /// Since when and why the file is no longer at its path, if it is missing.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.loss.lock().expect("never poisoned: nothing panics under it").clone()
    }

    /// Ends a claim, without waiting for the thread.
    pub(crate) fn settle(&self, tag: u64, ending: ClaimEnd) {
        self.send(Arrival::Settle { tag, ending });
    }

    /// Tells the thread that another process has rung the bell.
    fn notice(&self) {
        if !self.noticed.swap(true, Ordering::AcqRel) {
            self.send(Arrival::Changed);
        }
    }
}

/// The time until which the thread may start a job, a little before the caller's timeout: a job that was never started has
/// certainly not been done, whereas a caller that gives up first cannot know.
fn give_up_at(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout - (timeout / 10).min(Duration::from_millis(500)))
}
