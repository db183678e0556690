//! The callers in this process that wait for results.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Receives a record with its number once it is stored.
pub(crate) type RecordReceiver = oneshot::Receiver<Result<(i64, Vec<u8>)>>;

/// The other half of [`RecordReceiver`].
pub(super) type Reply = oneshot::Sender<Result<(i64, Vec<u8>)>>;

/// What a caller waits for.
#[derive(Clone, Copy)]
pub(crate) enum WaitFor {
    /// A final record.
    Final,
    /// A record with a larger number.
    After(i64),
}

impl WaitFor {
    pub(super) fn is(self, seq: i64, is_final: bool) -> bool {
        match self {
            Self::Final => is_final,
            Self::After(known) => seq > known,
        }
    }
}

/// A stored record.
pub(super) struct Stored {
    pub(super) task_id: String,
    pub(super) seq: i64,
    pub(super) is_final: bool,
    pub(super) record: Vec<u8>,
}

/// The waiting callers, by task.
#[derive(Default)]
pub(super) struct Waiters {
    by_task: HashMap<String, Vec<Waiter>>,
    /// The number of the last change that was looked at.
    pub(super) seen: i64,
}

struct Waiter {
    news: WaitFor,
    reply: Reply,
}

impl Waiters {
    pub(super) fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }

    pub(super) fn has_waiter_for(&self, task_id: &str) -> bool {
        self.by_task.contains_key(task_id)
    }

    pub(super) fn add(&mut self, task_id: &str, news: WaitFor, reply: Reply) {
        self.by_task.entry(task_id.to_owned()).or_default().push(Waiter { news, reply });
    }

    /// Answers the callers for which a record is news.
    pub(super) fn answer(&mut self, stored: &Stored) {
        let Some(waiters) = self.by_task.get_mut(&stored.task_id) else { return };
        let answered = waiters.extract_if(.., |waiter| waiter.news.is(stored.seq, stored.is_final));
        for Waiter { reply, .. } in answered {
            let _ = reply.send(Ok((stored.seq, stored.record.clone())));
        }
        if waiters.is_empty() {
            self.by_task.remove(&stored.task_id);
        }
    }

    /// Answers all callers with an error, since no more results will arrive.
    pub(super) fn fail(&mut self, error: impl Fn() -> Error) {
        for waiter in self.by_task.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.reply.send(Err(error()));
        }
    }

    /// Removes callers that have timed out.
    pub(super) fn forget_gone(&mut self) {
        self.by_task.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.reply.is_closed());
            !waiters.is_empty()
        });
    }
}
