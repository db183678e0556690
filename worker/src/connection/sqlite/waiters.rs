//! Who waits in this process for the results of which tasks.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// A record that is not there yet, with its number.
pub(crate) type Coming = oneshot::Receiver<Result<(i64, Vec<u8>)>>;

/// Where it is sent when it is there.
pub(super) type Reply = oneshot::Sender<Result<(i64, Vec<u8>)>>;

/// What is waited for.
#[derive(Clone, Copy)]
pub(crate) enum News {
    /// A final record.
    Final,
    /// A record with a larger number.
    After(i64),
}

impl News {
    pub(super) fn is(self, seq: i64, is_final: bool) -> bool {
        match self {
            Self::Final => is_final,
            Self::After(known) => seq > known,
        }
    }
}

/// A record as it is stored.
pub(super) struct Stored {
    pub(super) task_id: String,
    pub(super) seq: i64,
    pub(super) is_final: bool,
    pub(super) record: Vec<u8>,
}

/// Who waits for which task, in this process.
#[derive(Default)]
pub(super) struct Waiters {
    by_task: HashMap<String, Vec<Waiter>>,
    /// The changes up to this one were looked at.
    pub(super) seen: i64,
}

struct Waiter {
    news: News,
    reply: Reply,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }

    pub(super) fn has_waiter_for(&self, task_id: &str) -> bool {
        self.by_task.contains_key(task_id)
    }

    pub(super) fn add(&mut self, task_id: &str, news: News, reply: Reply) {
        self.by_task.entry(task_id.to_owned()).or_default().push(Waiter { news, reply });
    }

    /// Answers those to whom a record is news.
    pub(super) fn tell(&mut self, stored: &Stored) {
        let Some(waiters) = self.by_task.get_mut(&stored.task_id) else { return };
        let told = waiters.extract_if(.., |waiter| waiter.news.is(stored.seq, stored.is_final));
        for Waiter { reply, .. } in told {
            let _ = reply.send(Ok((stored.seq, stored.record.clone())));
        }
        if waiters.is_empty() {
            self.by_task.remove(&stored.task_id);
        }
    }

    /// Answers all, since nothing will come any more.
    pub(super) fn fail(&mut self, error: impl Fn() -> Error) {
        for waiter in self.by_task.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.reply.send(Err(error()));
        }
    }

    /// Forgets those whose time-out has passed.
    pub(super) fn forget_gone(&mut self) {
        self.by_task.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.reply.is_closed());
            !waiters.is_empty()
        });
    }
}
