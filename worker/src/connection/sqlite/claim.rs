//! Claims: messages that were delivered and are not settled yet.

use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;

/// A message claimed for a consumer.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Identifies the claim when it is settled.
    pub(crate) tag: u64,
    pub(crate) message: Message,
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) crashes: u32,
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimEnd {
    /// The message leaves the queue.
    Ack,
    /// The message is requeued at its old position.
    Requeue,
    /// The message is dead-lettered.
    Reject,
    /// The message is requeued after a pause, and its crash count is raised by one.
    Lost { pause: Duration },
}

/// An unsettled claim.
pub(super) struct Claim {
    pub(super) id: i64,
    pub(super) token: i64,
    pub(super) queue: i64,
    pub(super) rank: i64,
    pub(super) crashes: u32,
    pub(super) expires_at: Option<i64>,
    pub(super) consumer: Option<u64>,
    pub(super) client: u64,
}
