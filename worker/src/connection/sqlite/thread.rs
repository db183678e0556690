//! The thread of one file: runs all jobs that have arrived in one transaction, then sleeps until the next work is due.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::sync::oneshot;

use super::claim::ClaimEnd;
use super::engine::Engine;
use super::failure::{describe, is_busy};
use super::job::{Access, Order};
use super::presence::Absence;
use super::transaction::Refused;
use super::{Database, Loss};
use crate::error::{Error, Result};
use crate::tracing;

/// The maximum number of arrivals in one transaction: a larger batch would hardly be cheaper, and callers wait for it.
const BATCH: usize = 1024;
/// The maximum size of all messages in one transaction.
const BATCH_BYTES: usize = 16 << 20;
/// How long a transaction waits for the callers that the previous one has just answered. They often send their next job at
/// once; without the wait, half of them would miss the transaction and need a sync of their own. A single caller never waits.
const GATHER: Duration = Duration::from_micros(150);
/// The minimum number of callers for which [`GATHER`] pays off.
const GATHER_FROM: usize = 4;
/// The pause of chores after a failure other than a lock, such as a full disk, and between checks for a missing file.
const BACKOFF: Duration = Duration::from_millis(200);

/// An entry of the thread's inbox.
pub(super) enum Arrival {
    /// Opens the file, unless it is open already.
    Open { deadline: Option<Instant>, reply: oneshot::Sender<Result<()>> },
    /// A job whose caller waits for the answer.
    Order(Order),
    /// The end of a claim. No caller waits for it; the thread retries until it is written.
    Settle { tag: u64, ending: ClaimEnd },
    /// Another process has rung the bell.
    Changed,
}

/// What the thread shares with the handles.
pub(super) struct Shared {
    /// The path as the first opener of the file wrote it.
    pub(super) named: PathBuf,
    pub(super) noticed: Arc<AtomicBool>,
    pub(super) loss: Arc<Mutex<Option<Loss>>>,
    pub(super) database: Weak<Database>,
}

/// Starts the thread. It stops when the last handle is dropped.
pub(super) fn start(path: Arc<Path>, inbox: Receiver<Arrival>, shared: Shared) -> Result<()> {
    // State is created on the thread itself: a connection must not move between threads.
    let run = move || {
        let thread = Thread {
            path,
            inbox,
            shared,
            engine: None,
            orders: VecDeque::new(),
            answered: 0,
            was_rung: false,
            chores_not_before: None,
            absence: None,
            loss_is_logged: false,
        };
        thread.run();
    };
    thread::Builder::new()
        .name("mq-worker-sqlite".into())
        .spawn(run)
        .map(drop)
        .map_err(|error| Error::storage("cannot start the thread of the database").with_source(error))
}

struct Thread {
    path: Arc<Path>,
    inbox: Receiver<Arrival>,
    shared: Shared,
    engine: Option<Engine>,
    /// Orders not done yet, in the order of their arrival.
    orders: VecDeque<Order>,
    /// The number of orders that the last transaction answered.
    answered: usize,
    was_rung: bool,
    /// Set after a failure, so that a full disk does not cause a busy loop.
    chores_not_before: Option<Instant>,
    /// The result of the last check for the file.
    absence: Option<Absence>,
    loss_is_logged: bool,
}

impl Thread {
    fn run(mut self) {
        loop {
            match self.inbox.recv_timeout(self.patience()) {
                Ok(arrival) => self.accept(arrival),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.gather();
            self.turn();
        }
        if let Some(engine) = self.engine.as_mut().filter(|_| self.absence.is_none()) {
            engine.leave();
        }
    }

    /// Accepts everything in the inbox, and waits briefly for the callers just answered.
    fn gather(&mut self) {
        let mut room = BATCH;
        while room > 0
            && let Ok(arrival) = self.inbox.try_recv()
        {
            self.accept(arrival);
            room -= 1;
        }
        if self.answered < GATHER_FROM || self.orders.is_empty() {
            return;
        }
        let end = Instant::now() + GATHER;
        while self.orders.len() < self.answered
            && let Ok(arrival) = self.inbox.recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            self.accept(arrival);
        }
    }

    fn patience(&self) -> Duration {
        let Some(engine) = &self.engine else { return Duration::from_secs(60) };
        if !self.orders.is_empty() {
            return Duration::ZERO;
        }
        if self.absence.is_some() {
            return BACKOFF;
        }
        match self.chores_not_before {
            Some(time) if engine.has_chores() => time.saturating_duration_since(Instant::now()),
            _ => engine.patience(),
        }
    }

    fn accept(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Open { deadline, reply } => drop(reply.send(self.open(deadline))),
            Arrival::Order(order) => self.orders.push_back(order),
            Arrival::Settle { tag, ending } => {
                if let Some(engine) = &mut self.engine {
                    engine.verdicts.push((tag, ending));
                }
            }
            Arrival::Changed => {
                // Cleared before looking, so that a later ring is queued again.
                self.shared.noticed.store(false, Ordering::Release);
                self.was_rung = true;
            }
        }
    }

    fn open(&mut self, deadline: Option<Instant>) -> Result<()> {
        if self.engine.is_none() {
            let deadline = deadline.unwrap_or_else(Instant::now);
            let (path, shared) = (Arc::clone(&self.path), &self.shared);
            self.engine = Some(Engine::open(path, &shared.named, deadline, shared.database.clone())?);
        }
        self.look_for_file();
        match self.absence {
            Some(absence) => Err(absence.error(&self.path, "open the database")),
            None => Ok(()),
        }
    }

    /// Checks whether the file is still at its path. While it is missing, nothing is written and all waiting callers get an
    /// error; work resumes when it is put back.
    fn look_for_file(&mut self) {
        let Some(engine) = &mut self.engine else { return };
        let found = engine.presence.check(&engine.db).err();
        let before = std::mem::replace(&mut self.absence, found);
        let path = self.path.display();
        if found != before {
            let loss = found.map(|absence| (Utc::now(), format!("the database `{path}` {absence}")));
            if loss.is_none() && std::mem::take(&mut self.loss_is_logged) {
                tracing::info!(%path, "the database is back");
            }
            *self.shared.loss.lock().expect("never poisoned: nothing panics under it") = loss;
        }
        let Some(absence) = found else { return };
        // Deleting the file is fine once this program no longer uses it.
        if !self.loss_is_logged && (!self.orders.is_empty() || engine.has_listeners()) {
            self.loss_is_logged = true;
            tracing::error!(
                "the database `{path}` {absence}: nothing is sent, run or stored until it is put back or this program is \
                 restarted"
            );
        }
        for order in self.orders.drain(..) {
            order.fail(|act| absence.error(&self.path, act));
        }
        engine.waiters.fail(|| absence.error(&self.path, "wait for a result"));
    }

    /// Runs one round: a transaction if there is something to write, the reads, then a check for changes by other processes.
    fn turn(&mut self) {
        self.drop_late();
        self.look_for_file();
        let Some(engine) = self.engine.as_mut().filter(|_| self.absence.is_none()) else { return };
        let mut reads = Vec::new();
        let mut writes = Vec::new();
        let mut bytes = 0;
        // Orders that do not fit stay queued for the next round.
        while bytes < BATCH_BYTES
            && let Some(order) = self.orders.pop_front()
        {
            bytes += order.terms.bytes;
            if order.terms.access == Access::Read { reads.push(order) } else { writes.push(order) }
        }
        let now = Instant::now();
        let may_do_chores = self.chores_not_before.is_none_or(|time| time <= now);
        if !writes.is_empty() || (may_do_chores && engine.has_chores()) {
            self.chores_not_before = None;
            self.answered = writes.len();
            if let Some(refused) = transact(engine, writes) {
                if !is_busy(&refused.cause) {
                    tracing::warn!(error = %refused.cause, path = %self.path.display(), "cannot write");
                    self.chores_not_before = Some(now + BACKOFF);
                }
                for order in refused.orders.into_iter().rev() {
                    self.orders.push_front(order);
                }
            }
        }
        for order in reads {
            engine.read(order);
        }
        if let Err(error) = engine.look(std::mem::take(&mut self.was_rung))
            && !is_busy(&error)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot read");
        }
    }

    /// Fails orders that are past their deadline or whose caller has given up. None of them was started.
    fn drop_late(&mut self) {
        let now = Instant::now();
        if !self.orders.iter().any(|order| order.is_late(now)) {
            return;
        }
        for order in std::mem::take(&mut self.orders) {
            if !order.is_late(now) {
                self.orders.push_back(order);
                continue;
            }
            let path = self.path.display();
            order.fail(|act| {
                Error::timeout(format!(
                    "cannot {act} in time: another process holds the lock on `{path}`, or its disk is too slow"
                ))
            });
        }
    }
}

/// Runs all orders in one transaction or, if that fails, each in its own, so that a bad job does not fail the others. Returns
/// the orders to try again: all of them if another process holds the lock.
pub(super) fn transact(engine: &mut Engine, orders: Vec<Order>) -> Option<Refused> {
    let Refused { cause, orders } = engine.transact(orders).err()?;
    if is_busy(&cause) {
        return Some(Refused { cause, orders });
    }
    let path = Arc::clone(&engine.path);
    // SQLite's error for a missing file is misleading, such as "disk I/O error".
    if let Err(absence) = engine.presence.check(&engine.db) {
        for order in orders {
            order.fail(|act| absence.error(&path, act));
        }
        return None;
    }
    if orders.is_empty() {
        return Some(Refused { cause, orders });
    }
    let mut orders = VecDeque::from(orders);
    if orders.len() == 1
        && engine.verdicts.is_empty()
        && let Some(order) = orders.pop_front()
    {
        order.fail(|act| describe(&path, act, cause));
        return None;
    }
    // Verdicts are tried on their own later, so that they and a publish cannot fail each other. Only orders that wait for
    // verdicts share their transaction.
    let mut verdicts = std::mem::take(&mut engine.verdicts);
    let mut refused = None;
    while let Some(order) = orders.pop_front() {
        if order.terms.is_after_verdicts {
            engine.verdicts.append(&mut verdicts);
        }
        let Err(Refused { cause, orders: mut same }) = engine.transact(vec![order]) else { continue };
        if is_busy(&cause) {
            same.extend(orders.drain(..));
            refused = Some(Refused { cause, orders: same });
        } else if let Some(order) = same.pop() {
            order.fail(|act| describe(&path, act, cause));
        }
    }
    engine.verdicts.append(&mut verdicts);
    refused
}
