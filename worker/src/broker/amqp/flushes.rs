//! Callers that wait until the broker has all acks so far. Only one flush is in progress at a time; later callers join
//! the next one.

use tokio::time::Instant;

use super::command::{Pending, Reply};

/// The flushes of one lane.
#[derive(Default)]
pub(super) struct Flushes {
    present: Option<Pending>,
    /// Callers that joined after the current one had started.
    next: Vec<Reply>,
}

impl Flushes {
    /// Adds a waiting caller.
    pub(super) fn join(&mut self, reply: Reply) {
        self.next.push(reply);
    }

    /// Starts the next flush if none is in progress. Returns `false` if no caller waits for one.
    pub(super) fn begin(&mut self) -> bool {
        if self.present.is_none() && !self.next.is_empty() {
            self.present = Some(Pending::new(std::mem::take(&mut self.next)));
        }
        self.is_under_way()
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.present.is_some()
    }

    /// True once for each flush, when the broker must be asked.
    pub(super) fn ask(&mut self) -> bool {
        self.present.as_mut().is_some_and(|flush| !std::mem::replace(&mut flush.is_asked, true))
    }

    /// When the callers get their reply, whether or not the broker has replied.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.present.as_ref().map(|flush| flush.deadline)
    }

    /// Ends the current flush and replies to its callers.
    pub(super) fn end(&mut self) {
        self.present.take().into_iter().for_each(Pending::over);
    }

    /// Ends the current flush if it is late, and returns whether it was.
    pub(super) fn end_late(&mut self) -> bool {
        let late = self.present.take_if(|flush| flush.is_late());
        late.map(Pending::over).is_some()
    }
}
