//! Jobs for the publishing task, and the errors that state what is known about a message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::outgoing::Outgoing;
use super::writes::Writing;
use crate::error::{Error, ErrorKind, Result};

pub(super) enum PublishJob {
    Publish(Arc<Outgoing>, PublishRequest),
    /// Its caller has already handed it to `lapin`.
    Written(Arc<Outgoing>, PublishRequest, Writing),
    Flush(oneshot::Sender<()>),
}

/// The waiting caller and its deadline.
pub(super) struct PublishRequest {
    pub(super) reply: oneshot::Sender<Result<()>>,
    pub(super) deadline: Instant,
    pub(super) refused: Option<Refused>,
}

/// A publish that the broker has refused so far.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    pub(super) since: Instant,
    pub(super) pause: Duration,
}

impl PublishRequest {
    pub(super) fn answer(self, outcome: Result<()>) {
        // An error means that the caller has given up.
        let _ = self.reply.send(outcome);
    }
}

pub(super) fn unsent(outgoing: &Outgoing) -> String {
    format!("nothing was sent to {}", outgoing.address())
}

pub(super) fn unknown(outgoing: &Outgoing, why: &str) -> Error {
    let mut message = format!("unknown whether {} got the message: {why}", outgoing.address());
    let id = outgoing.id();
    if id.is_some() {
        message.push_str("; it may be sent again");
    }
    Error::new(ErrorKind::Unknown { id: id.unwrap_or_default().to_owned() }, message)
}
