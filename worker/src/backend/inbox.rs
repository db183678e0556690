//! The results that this process expects as messages. They are kept as long as they have a handle, and for a while after
//! that, so that a web service can look them up by id.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;

use super::ResultRecord;

/// The number of calls without a handle that are remembered.
pub(super) const REMEMBERED: usize = 10_000;
/// The maximum total size of results without a handle.
const REMEMBERED_BYTES: usize = 64 << 20;

/// The calls of this process.
pub(super) struct Inbox {
    calls: HashMap<String, Call>,
    /// The calls whose last handle was dropped, oldest first. May contain duplicates.
    released: VecDeque<String>,
    /// The total size of results without a handle.
    released_bytes: usize,
    limit: (usize, usize),
}

#[derive(Default)]
struct Call {
    handles: usize,
    record: Option<(ResultRecord, usize)>,
    changed: Arc<Notify>,
}

impl Call {
    fn bytes(&self) -> usize {
        self.record.as_ref().map_or(0, |(_, bytes)| *bytes)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self::with_limit(REMEMBERED, REMEMBERED_BYTES)
    }
}

impl Inbox {
    fn with_limit(count: usize, bytes: usize) -> Self {
        let (calls, released) = (HashMap::new(), VecDeque::new());
        Self { calls, released, released_bytes: 0, limit: (count, bytes) }
    }

    /// Adds a handle for a call that is about to be sent.
    pub(super) fn expect(&mut self, id: &str) {
        let call = self.calls.entry(id.to_owned()).or_default();
        if call.handles == 0 {
            self.released_bytes -= call.bytes();
        }
        call.handles += 1;
    }

    /// Removes a handle.
    pub(super) fn release(&mut self, id: &str) {
        let Some(call) = self.calls.get_mut(id).filter(|call| call.handles > 0) else { return };
        call.handles -= 1;
        if call.handles == 0 {
            self.released_bytes += call.bytes();
            self.released.push_back(id.to_owned());
            self.trim();
        }
    }

    /// Keeps a received record of the given size, unless a final one exists. Returns false if the call is unknown.
    pub(super) fn note(&mut self, record: ResultRecord, bytes: usize) -> bool {
        let Some(call) = self.calls.get_mut(&record.task_id) else { return false };
        if call.record.as_ref().is_none_or(|(known, _)| !known.state.is_ready()) {
            let before = call.bytes();
            call.record = Some((record, bytes));
            call.changed.notify_waiters();
            if call.handles == 0 {
                self.released_bytes = self.released_bytes - before + bytes;
                self.trim();
            }
        }
        true
    }

    /// Returns the record of a call and the notifier of changes. `None` if the call is unknown.
    pub(super) fn get(&self, id: &str) -> Option<(Option<&ResultRecord>, &Arc<Notify>)> {
        let call = self.calls.get(id)?;
        Some((call.record.as_ref().map(|(record, _)| record), &call.changed))
    }

    /// Drops the result of a call.
    pub(super) fn forget(&mut self, id: &str) {
        if let Some(call) = self.calls.get_mut(id) {
            let bytes = call.bytes();
            call.record = None;
            if call.handles == 0 {
                self.released_bytes -= bytes;
            }
        }
    }

    fn trim(&mut self) {
        let (count, bytes) = self.limit;
        while self.released.len() > count || self.released_bytes > bytes {
            let Some(oldest) = self.released.pop_front() else { return };
            if let Some(call) = self.calls.get(&oldest)
                && call.handles == 0
            {
                self.released_bytes -= call.bytes();
                self.calls.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn done(id: &str) -> ResultRecord {
        ResultRecord::new(id, State::Success)
    }

    fn is_done(inbox: &Inbox, id: &str) -> Option<bool> {
        inbox.get(id).map(|(record, _)| record.is_some())
    }

    #[test]
    fn a_result_stays_after_its_handle_until_newer_ones_need_the_room() {
        let mut inbox = Inbox::with_limit(2, 1000);
        for id in ["a", "b", "c"] {
            inbox.expect(id);
        }
        assert!(inbox.note(done("a"), 10));
        inbox.release("a");
        inbox.release("b");
        assert!(inbox.note(done("b"), 10), "it comes after its handle is gone");
        assert_eq!((is_done(&inbox, "a"), is_done(&inbox, "b")), (Some(true), Some(true)));
        inbox.release("c");
        assert_eq!((is_done(&inbox, "a"), is_done(&inbox, "c")), (None, Some(false)));
        assert!(!inbox.note(done("a"), 10), "it is not known any more");
        assert_eq!(inbox.released_bytes, 10);
    }

    #[test]
    fn large_results_without_a_handle_are_bounded_in_bytes() {
        let mut inbox = Inbox::with_limit(100, 1000);
        for id in ["a", "b", "held"] {
            inbox.expect(id);
            inbox.note(done(id), 800);
        }
        inbox.release("a");
        inbox.release("b");
        assert_eq!((is_done(&inbox, "a"), is_done(&inbox, "b")), (None, Some(true)));
        assert_eq!((is_done(&inbox, "held"), inbox.released_bytes), (Some(true), 800));
        inbox.forget("b");
        assert_eq!((is_done(&inbox, "b"), inbox.released_bytes), (Some(false), 0));
    }

    #[test]
    fn a_call_with_a_handle_is_never_dropped() {
        let mut inbox = Inbox::with_limit(1, 1000);
        inbox.expect("a");
        inbox.release("a");
        // The same id is sent again.
        inbox.expect("a");
        for id in ["b", "c"] {
            inbox.expect(id);
            inbox.release(id);
        }
        assert_eq!((is_done(&inbox, "a"), is_done(&inbox, "b")), (Some(false), None));
        inbox.release("unknown");
        inbox.release("a");
        assert_eq!(is_done(&inbox, "a"), Some(false));
    }
}
