//! Reads the register of revoked calls: all of it before the first message, and what is added from then on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Notes, Register};
use crate::error::Result;
use crate::runtime::admission::revocations::Revocations;
use crate::runtime::execution::running::RunningTasks;
use crate::runtime::handle::WorkerHandle;
use crate::runtime::startup::{NotReady, RetryPause};
use crate::tracing;

/// Reads the register of revoked calls again and again.
pub(crate) struct RevocationReader {
    broker: Arc<dyn Broker>,
    pub(crate) revocations: Arc<Revocations>,
    running: Arc<RunningTasks>,
    /// Where to continue reading. `None`: the broker has no register.
    next: Option<u64>,
}

impl RevocationReader {
    /// Creates a reader that starts with the oldest entry.
    pub(crate) fn new(broker: Arc<dyn Broker>, running: Arc<RunningTasks>) -> Self {
        Self { broker, revocations: Arc::default(), running, next: Some(0) }
    }

    /// Reads everything that was revoked before this worker started, waiting for a broker that is away.
    pub(crate) async fn catch_up(&mut self, handle: &WorkerHandle) -> Result<(), NotReady> {
        let mut patience = RetryPause::default();
        loop {
            let error = tokio::select! {
                biased;
                () = handle.warm.cancelled() => return Err(NotReady::Stopped),
                // Up to this moment: a revocation that is read later may come after the message that it is about.
                read = self.read(|broker, next| broker.notes(Register::Revoked, next)) => match read {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
            };
            // Other errors are transient, such as a stream that is still being created or whose leader is not back yet, and
            // must not stop the worker.
            if !error.is_unsupported() && !error.is_access_refused() {
                patience.pause("read which tasks are revoked", &error, handle).await;
                continue;
            }
            tracing::warn!(
                error = format!("{error:#}"),
                "this broker does not store revoked ids: only running workers receive a revocation"
            );
            self.next = None;
            return Ok(());
        }
    }

    /// False if the broker stores no revocations: then only a worker with an open mailbox receives one.
    pub(crate) fn is_stored(&self) -> bool {
        self.next.is_some()
    }

    async fn read(
        &mut self,
        ask: impl for<'a> Fn(&'a dyn Broker, u64) -> BoxFuture<'a, Result<Notes>>,
    ) -> Result<()> {
        let Some(next) = self.next else { return Ok(()) };
        let found = ask(&*self.broker, next).await?;
        self.next = Some(found.next);
        if found.notes.is_empty() {
            return Ok(());
        }
        self.revocations.add(found.notes);
        for task in self.running.list() {
            self.revocations.pass_on(&task.context);
        }
        Ok(())
    }

    /// Reads new entries every `period`, and when one may have been missed, until `over`.
    pub(crate) async fn follow(mut self, period: Duration, over: CancellationToken) {
        while self.next.is_some() {
            tokio::select! {
                () = over.cancelled() => return,
                () = self.revocations.missed() => {}
                () = tokio::time::sleep(period) => {}
            }
            let read = tokio::select! {
                () = over.cancelled() => return,
                read = self.read(|broker, next| broker.newer_notes(Register::Revoked, next)) => read,
            };
            if let Err(error) = read {
                tracing::debug!(error = format!("{error:#}"), "cannot read which tasks are revoked");
            }
        }
    }
}
