//! Jobs: the requests of callers, each with a channel for its answer.
//!
//! A job is a closure over the engine. [`write`] creates one that changes the database: it runs in a transaction together
//! with all others that have arrived, and its caller is answered after the commit. [`read`] creates one that only reads.

use std::time::Instant;

use tokio::sync::oneshot;

use super::engine::{Changes, Engine, Sql, Synchronous};
use crate::error::{Error, Result};

/// A job that answers with a `T`.
pub(crate) struct Job<T, F> {
    pub(super) terms: Terms,
    run: F,
    /// Undoes the job if its caller was gone when it was answered.
    on_caller_gone: fn(&mut Engine, T),
}

/// The closure of a job. It may be called again: after a failed transaction is rolled back, each of its jobs is retried on
/// its own.
pub(crate) trait Run<T>:
    FnMut(&mut Engine, i64, &mut Changes) -> Sql<Result<T>> + Send + 'static
{
}

impl<T, F> Run<T> for F where F: FnMut(&mut Engine, i64, &mut Changes) -> Sql<Result<T>> + Send + 'static {}

/// How a job is run.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    /// The verb for error messages, such as `publish`.
    pub(super) act: &'static str,
    pub(super) access: Access,
    /// How much it adds to the size of its transaction, if that matters.
    pub(super) bytes: usize,
    /// True if it need not be done once its caller has gone.
    pub(super) is_for_caller: bool,
    /// True if earlier verdicts must be written in the same transaction.
    pub(super) is_after_verdicts: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Access {
    /// No transaction: can be answered while another process writes.
    Read,
    Write(Synchronous),
}

/// Creates a job that only reads.
pub(crate) fn read<T: 'static>(
    act: &'static str,
    mut run: impl FnMut(&mut Engine, i64) -> Sql<T> + Send + 'static,
) -> Job<T, impl Run<T>> {
    let run = move |engine: &mut Engine, now, _: &mut Changes| run(engine, now).map(Ok);
    let mut job = write(act, run);
    job.terms.access = Access::Read;
    job
}

/// Creates a job that changes the database; the change is on the disk when the caller is answered.
pub(crate) fn write<T, F: Run<T>>(act: &'static str, run: F) -> Job<T, F> {
    let terms = Terms {
        act,
        access: Access::Write(Synchronous::Full),
        bytes: 0,
        is_for_caller: true,
        is_after_verdicts: false,
    };
    Job { terms, run, on_caller_gone: |_, _| {} }
}

impl<T, F> Job<T, F> {
    /// Does not wait for the disk: a power failure may undo the job after its answer. For jobs that promise no durability.
    pub(crate) fn lazily(mut self) -> Self {
        self.terms.access = Access::Write(Synchronous::Normal);
        self
    }

    pub(super) fn of_bytes(mut self, bytes: usize) -> Self {
        self.terms.bytes = bytes;
        self
    }

    pub(super) fn run_without_caller(mut self) -> Self {
        self.terms.is_for_caller = false;
        self
    }

    pub(super) fn after_verdicts(mut self) -> Self {
        self.terms.is_after_verdicts = true;
        self
    }

    pub(super) fn on_caller_gone(mut self, take_back: fn(&mut Engine, T)) -> Self {
        self.on_caller_gone = take_back;
        self
    }

    /// The verb for error messages, such as `publish`.
    pub(crate) fn act(&self) -> &'static str {
        self.terms.act
    }
}

impl<T: Send + 'static, F: Run<T>> Job<T, F> {
    /// Converts the job into an order for the thread, and a receiver for its answer.
    pub(super) fn order(self, deadline: Option<Instant>) -> (Order, oneshot::Receiver<Result<T>>) {
        let (reply, answer) = oneshot::channel();
        let Self { terms, run, on_caller_gone } = self;
        let work = Box::new(Asked { run, on_caller_gone, found: None, reply });
        (Order { terms, deadline, work }, answer)
    }
}

/// A job with a waiting caller, with the type of its answer erased.
pub(super) struct Order {
    pub(super) terms: Terms,
    /// The time until which it may be started. `None`: the caller limits the wait.
    deadline: Option<Instant>,
    work: Box<dyn Work>,
}

impl Order {
    pub(super) fn run(&mut self, engine: &mut Engine, now: i64, changes: &mut Changes) -> Sql<()> {
        self.work.run(engine, now, changes)
    }

    /// Answers with the result of the last run.
    pub(super) fn answer(self, engine: &mut Engine) {
        self.work.answer(engine);
    }

    /// Answers with an error, given the verb for its message.
    pub(super) fn fail(self, error: impl FnOnce(&'static str) -> Error) {
        self.work.fail(error(self.terms.act));
    }

    /// True if its deadline has passed or its caller has given up.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
            || (self.terms.is_for_caller && self.work.is_abandoned())
    }
}

trait Work: Send {
    fn run(&mut self, engine: &mut Engine, now: i64, changes: &mut Changes) -> Sql<()>;
    fn answer(self: Box<Self>, engine: &mut Engine);
    fn fail(self: Box<Self>, error: Error);
    fn is_abandoned(&self) -> bool;
}

struct Asked<T, F> {
    run: F,
    on_caller_gone: fn(&mut Engine, T),
    /// The answer, to be sent if the transaction commits.
    found: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T: Send, F: Run<T>> Work for Asked<T, F> {
    fn run(&mut self, engine: &mut Engine, now: i64, changes: &mut Changes) -> Sql<()> {
        self.found = Some((self.run)(engine, now, changes)?);
        Ok(())
    }

    fn answer(self: Box<Self>, engine: &mut Engine) {
        let Self { on_caller_gone, found, reply, .. } = *self;
        if let Some(found) = found
            && let Err(Ok(undelivered)) = reply.send(found)
        {
            on_caller_gone(engine, undelivered);
        }
    }

    fn fail(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
