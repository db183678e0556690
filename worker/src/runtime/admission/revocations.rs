//! The ids that somebody has revoked: read from the broker before the first message, and followed from then on.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Note, Notes, Register};
use crate::error::Result;
use crate::runtime::execution::running::RunningTasks;
use crate::runtime::handle::WorkerHandle;
use crate::runtime::startup::Patience;
use crate::task::Context;
use crate::tracing;

/// So many ids are kept, some ten megabytes. Beyond that those go that lapse first.
const MOST: usize = 100_000;

/// What this worker must not run.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    /// Asked for each message, so that most workers never take the lock.
    any: AtomicBool,
    known: Mutex<HashMap<String, Known>>,
    /// Told when something may have been missed.
    look: Notify,
}

/// What is known of one id.
#[derive(Clone, Copy, Debug)]
struct Known {
    until: DateTime<Utc>,
    by_force: bool,
}

impl Revocations {
    /// True when the id was revoked.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// Tells a call that runs, if its id was revoked.
    pub(crate) fn tell(&self, context: &Context) {
        match self.find(context.id()) {
            Some(Known { by_force: true, .. }) => context.terminate(),
            Some(_) => context.revoke(),
            None => {}
        }
    }

    fn find(&self, id: &str) -> Option<Known> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.known().get(id).copied().filter(|known| known.until > Utc::now())
    }

    /// Adds ids. One that was to be stopped by force stays so, whatever comes after it.
    pub(crate) fn add(&self, notes: impl IntoIterator<Item = Note>) {
        let mut known = self.known();
        let now = Utc::now();
        for Note { id, until, by_force } in notes {
            let new = Known { until, by_force };
            known
                .entry(id)
                .and_modify(|old| {
                    *old = Known { by_force: by_force || (old.by_force && old.until > now), until }
                })
                .or_insert(new);
        }
        if known.len() > MOST {
            known.retain(|_, known| known.until > now);
        }
        if known.len() > MOST {
            let mut all: Vec<DateTime<Utc>> = known.values().map(|known| known.until).collect();
            all.sort_unstable();
            let first = all[all.len() - MOST];
            tracing::warn!(kept = MOST, "more tasks are revoked than a worker remembers");
            known.retain(|_, known| known.until >= first);
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    /// All ids, in no order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let now = Utc::now();
        self.known().iter().filter(|(_, known)| known.until > now).map(|(id, _)| id.clone()).collect()
    }

    /// Something may have been revoked that was not heard.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the register again and again.
pub(crate) struct Follower {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) running: Arc<RunningTasks>,
    /// Where to go on reading. `None`: the broker keeps no register.
    pub(crate) next: Option<u64>,
}

impl Follower {
    /// Reads all that was revoked before this worker, waiting for a broker that is away. False when the worker was
    /// stopped meanwhile.
    pub(crate) async fn catch_up(&mut self, handle: &WorkerHandle) -> Result<bool> {
        let mut patience = Patience::default();
        loop {
            let error = tokio::select! {
                biased;
                () = handle.warm.cancelled() => return Ok(false),
                // Up to this moment: what is read later may come after a message that it is about.
                read = self.read(|broker, next| broker.notes(Register::Revoked, next)) => match read {
                    Ok(()) => return Ok(true),
                    Err(error) => error,
                },
            };
            // Whatever else is wrong, such as a stream that is only just being made or whose leader is not back yet, gets
            // better, and ends no worker.
            if !error.is_unsupported() && !error.is_access_refused() {
                patience.pause("read which tasks are revoked", &error, handle).await;
                continue;
            }
            tracing::warn!(
                error = format!("{error:#}"),
                "this broker does not keep what is revoked: a worker hears of it only while it runs"
            );
            self.next = None;
            return Ok(true);
        }
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
            self.revocations.tell(&task.context);
        }
        Ok(())
    }

    /// Reads on every `period`, and when something may have been missed, until `over`.
    pub(crate) async fn follow(mut self, period: Duration, over: CancellationToken) {
        while self.next.is_some() {
            tokio::select! {
                () = over.cancelled() => return,
                () = self.revocations.look.notified() => {}
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
