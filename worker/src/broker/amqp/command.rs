//! What is asked of a lane from outside. It is a state with a deadline, never a wait: meanwhile the lane does its work.

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::connection::amqp::channel::ANSWER;

/// What is asked of a lane from outside.
pub(super) enum LaneCommand {
    /// Hand out no more.
    Cancel(Reply),
    /// Answer when all verdicts so far have reached the broker.
    Flush(Reply),
}

/// Who waits for a command.
pub(super) type Reply = oneshot::Sender<()>;

/// A command that waits for the broker.
pub(super) struct Pending {
    replies: Vec<Reply>,
    /// When the callers get their answer, whether or not the broker has answered.
    pub(super) deadline: Instant,
    /// The broker has been asked.
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

    /// Reports to all waiting callers.
    pub(super) fn over(self) {
        for reply in self.replies {
            // An error means that the caller no longer waits.
            let _ = reply.send(());
        }
    }
}
