//! A claim: a message that was handed out, until its consumer settles it.

use std::sync::Arc;
use std::time::Duration;

use crate::message::Message;

/// A message that was handed out.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Names the claim when it ends.
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
pub(crate) enum Ending {
    /// The message leaves.
    Done,
    /// The message is requeued at its old position.
    Back,
    /// The message goes where the dead letters of its queue go.
    Rejected,
    /// The message is requeued after a pause, with a crash count one higher.
    Lost { pause: Duration },
}

/// A claim that is not settled.
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
