//! The ids of revoked calls, which this worker must not run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::stamps::RevokedStamps;
use crate::broker::Note;
use crate::task::Context;
use crate::tracing;

/// How many ids are kept, some ten megabytes. Beyond that, the first to expire are dropped.
const MOST: usize = 100_000;

/// Calls that this worker must not run.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    /// Checked for each message, so that most workers never take the lock.
    any: AtomicBool,
    known: Mutex<HashMap<String, Known>>,
    /// Calls that were revoked by their stamps.
    pub(crate) stamps: RevokedStamps,
    /// Notified when a revocation may have been missed.
    look: Notify,
}

/// What is known about one id.
#[derive(Clone, Copy, Debug)]
struct Known {
    until: DateTime<Utc>,
    terminate: bool,
}

impl Revocations {
    /// True when the id was revoked.
    pub(crate) fn contains(&self, id: &str) -> bool {
        self.find(id).is_some()
    }

    /// True when the call was revoked, by its id or by a stamp.
    pub(crate) fn concern(&self, context: &Context) -> bool {
        self.contains(context.id()) || self.stamps.contain(context.headers())
    }

    /// Passes a revocation on to a running call, if its id was revoked.
    pub(crate) fn pass_on(&self, context: &Context) {
        match self.find(context.id()) {
            Some(Known { terminate: true, .. }) => context.terminate(),
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

    /// Adds ids. An id that was revoked with *terminate* stays so, even if it is revoked again without.
    pub(crate) fn add(&self, notes: impl IntoIterator<Item = Note>) {
        let mut known = self.known();
        let now = Utc::now();
        for Note { id, until, terminate } in notes {
            let new = Known { until, terminate };
            known
                .entry(id)
                .and_modify(|old| {
                    *old = Known { terminate: terminate || (old.terminate && old.until > now), until }
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
            tracing::warn!(kept = MOST, "more ids are revoked than a worker keeps");
            known.retain(|_, known| known.until >= first);
        }
        self.any.store(!known.is_empty(), Ordering::Release);
    }

    /// All ids, in no particular order.
    pub(crate) fn ids(&self) -> Vec<String> {
        let now = Utc::now();
        self.known().iter().filter(|(_, known)| known.until > now).map(|(id, _)| id.clone()).collect()
    }

    /// Resolves when a revocation may have been missed.
    pub(crate) fn missed(&self) -> Notified<'_> {
        self.look.notified()
    }

    /// Requests a read of the register: a revocation may have been missed.
    pub(crate) fn look(&self) {
        self.look.notify_one();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
