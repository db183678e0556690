//! Requests to a lane. A pending request is a state with a deadline, never an await, so the lane keeps working.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection::amqp::channel::ANSWER;

/// A request to a lane.
pub(super) enum LaneCommand {
    /// Stop handing out deliveries.
    Cancel(Reply),
    /// Reply when all verdicts so far have reached the broker.
    Flush(Reply),
}

/// Notifies the waiting caller that its command is done.
pub(super) type Reply = oneshot::Sender<()>;

/// A command that waits for the broker.
pub(super) struct Pending {
    replies: Vec<Reply>,
    /// When the callers get their reply, whether or not the broker has replied.
    pub(super) deadline: Instant,
    /// True once the request was sent to the broker.
    pub(super) is_asked: bool,
}

impl Pending {
    pub(super) fn new(replies: Vec<Reply>) -> Self {
        Self { replies, deadline: Instant::now() + ANSWER, is_asked: false }
    }

    pub(super) fn join(&mut self, reply: Option<Reply>) {
        self.replies.extend(reply);
    }

    pub(super) fn is_late(&self) -> bool {
        self.deadline <= Instant::now()
    }

    /// Replies to all waiting callers.
    pub(super) fn over(self) {
        for reply in self.replies {
            // An error means that the caller no longer waits.
            let _ = reply.send(());
        }
    }
}
