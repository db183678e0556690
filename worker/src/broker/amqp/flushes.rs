//! Those who wait until the broker has all acks so far. One question is on its way at a time; who comes meanwhile waits for
//! the next.

use tokio::time::Instant;

use super::command::{Pending, Reply};

/// The flushes of one lane.
#[derive(Default)]
pub(super) struct Flushes {
    present: Option<Pending>,
    /// Asked for after the present one had begun.
    next: Vec<Reply>,
}

impl Flushes {
    /// Adds one who waits.
    pub(super) fn join(&mut self, reply: Reply) {
        self.next.push(reply);
    }

    /// Begins the next flush if none is under way. False when nobody waits.
    pub(super) fn begin(&mut self) -> bool {
        if self.present.is_none() && !self.next.is_empty() {
            self.present = Some(Pending::new(std::mem::take(&mut self.next)));
        }
        self.is_under_way()
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.present.is_some()
    }

    /// True once for each flush: then the broker is to be asked.
    pub(super) fn ask(&mut self) -> bool {
        self.present.as_mut().is_some_and(|flush| !std::mem::replace(&mut flush.is_asked, true))
    }

    /// When the callers get their answer, whether or not the broker has answered.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.present.as_ref().map(|flush| flush.deadline)
    }

    /// Ends the present flush and answers its callers.
    pub(super) fn end(&mut self) {
        self.present.take().into_iter().for_each(Pending::over);
    }

    /// Ends the present flush if its time is up.
    pub(super) fn end_late(&mut self) -> bool {
        let late = self.present.take_if(|flush| flush.is_late());
        late.map(Pending::over).is_some()
    }
}
