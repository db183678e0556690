//! Messages that a worker still holds when their channel is lost: pure bookkeeping.
//!
//! The broker redelivers those messages, often to the same process, while their first run is still in progress. A
//! second run beside it would be a needless duplicate. So the new copy is parked until the first run ends: an ack then
//! acks the new copy, and a requeue hands it out. If the run ended just before its copy arrived, no second run is
//! needed either.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::ledger::Identity;

/// A copy arrives soon after the loss. After this time, an equal message is taken for a different one.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// How many finished messages are remembered at most.
const REMEMBERED: usize = 8192;

/// Messages of lost channels. `P` is a parked copy.
pub(super) struct LostChannels<P> {
    /// Keyed by the number of the lost channel and the tag there.
    running: HashMap<(u64, u64), Identity>,
    parked: HashMap<Identity, Option<P>>,
    finished: VecDeque<(Instant, Identity)>,
    /// The last messages that were acked on the current channel: the broker may not have seen those acks.
    acked: VecDeque<Identity>,
    /// How many of those acks can be in flight.
    most: usize,
}

/// What to do with a redelivered message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redelivered {
    /// It is not known here.
    Run,
    /// Its first run is still in progress.
    Park,
    /// Its first run ended with an ack: ack it too.
    Finished,
}

impl<P> LostChannels<P> {
    /// `most` is how many messages may be unacked on the channel.
    pub(super) fn new(most: usize) -> Self {
        let (running, parked, finished, acked) = Default::default();
        Self { running, parked, finished, acked, most }
    }

    /// Records that the ack of a message was written.
    pub(super) fn acked(&mut self, identity: Identity) {
        if self.acked.len() >= self.most {
            self.acked.pop_front();
        }
        self.acked.push_back(identity);
    }

    /// Records the loss of a channel. Copies parked from it are void, as they will be redelivered.
    pub(super) fn lost(
        &mut self,
        channel: u64,
        out: Vec<(u64, Identity)>,
        done: impl IntoIterator<Item = Identity>,
    ) {
        self.parked.values_mut().for_each(|parked| *parked = None);
        for (tag, identity) in out {
            self.parked.entry(identity.clone()).or_default();
            self.running.insert((channel, tag), identity);
        }
        let acked = std::mem::take(&mut self.acked);
        done.into_iter().chain(acked).for_each(|identity| self.remember(identity));
    }

    fn remember(&mut self, identity: Identity) {
        if self.finished.len() == REMEMBERED {
            self.finished.pop_front();
        }
        self.finished.push_back((Instant::now(), identity));
    }

    /// True when no redelivered message needs a check.
    pub(super) fn is_empty(&self) -> bool {
        self.running.is_empty() && self.finished.is_empty()
    }

    /// Decides what to do with a redelivered message. On [`Redelivered::Park`], the caller must call [`park`](Self::park).
    pub(super) fn ask(&mut self, identity: &Identity) -> Redelivered {
        while self.finished.front().is_some_and(|(since, _)| since.elapsed() > REMEMBERED_FOR) {
            self.finished.pop_front();
        }
        if let Some(at) = self.finished.iter().position(|(_, finished)| finished == identity) {
            self.finished.remove(at);
            return Redelivered::Finished;
        }
        match self.parked.get(identity) {
            Some(None) => Redelivered::Park,
            // A copy is parked already: a second one is taken for a message of its own.
            Some(Some(_)) | None => Redelivered::Run,
        }
    }

    /// Keeps the copy until its first run ends.
    pub(super) fn park(&mut self, identity: &Identity, copy: P) {
        if let Some(parked) = self.parked.get_mut(identity) {
            *parked = Some(copy);
        }
    }

    /// Records the end of a run that began on a lost channel, and returns the copy that is parked for it.
    pub(super) fn ended(&mut self, channel: u64, tag: u64, well: bool) -> Option<P> {
        let identity = self.running.remove(&(channel, tag))?;
        let parked = self.parked.remove(&identity)?;
        if parked.is_none() && well {
            self.remember(identity);
        }
        parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(id: &str) -> Identity {
        Identity::test(id, 0)
    }

    #[test]
    fn a_copy_waits_for_the_end_of_the_first_run() {
        let mut lost_channels = LostChannels::new(8);
        lost_channels.lost(1, vec![(5, identity("a")), (6, identity("b"))], []);
        assert_eq!(lost_channels.ask(&identity("a")), Redelivered::Park);
        lost_channels.park(&identity("a"), "copy");
        assert_eq!(lost_channels.ask(&identity("c")), Redelivered::Run);
        assert_eq!(lost_channels.ended(1, 5, true), Some("copy"));
        assert_eq!(lost_channels.ask(&identity("a")), Redelivered::Run, "the copy was settled with it");
        assert_eq!(lost_channels.ended(1, 5, true), None, "once");
        assert_eq!(lost_channels.ended(1, 6, true), None);
        assert_eq!(lost_channels.ask(&identity("b")), Redelivered::Finished);
        assert_eq!(lost_channels.ask(&identity("b")), Redelivered::Run, "only its one copy is skipped");
        assert!(lost_channels.is_empty());
    }

    #[test]
    fn a_run_that_is_given_back_is_run_again() {
        let mut lost_channels = LostChannels::<()>::new(8);
        lost_channels.lost(1, vec![(1, identity("a"))], []);
        assert_eq!(lost_channels.ended(1, 1, false), None);
        assert_eq!(lost_channels.ask(&identity("a")), Redelivered::Run);
    }

    #[test]
    fn a_second_loss_voids_what_was_parked() {
        let mut lost_channels = LostChannels::new(8);
        lost_channels.lost(1, vec![(1, identity("a"))], [identity("done")]);
        lost_channels.park(&identity("a"), "first copy");
        lost_channels.lost(2, vec![], []);
        assert_eq!(lost_channels.ask(&identity("a")), Redelivered::Park);
        lost_channels.park(&identity("a"), "second copy");
        assert_eq!(lost_channels.ended(1, 1, true), Some("second copy"));
        assert_eq!(lost_channels.ask(&identity("done")), Redelivered::Finished);
    }

    #[test]
    fn a_retry_is_another_message() {
        let mut lost_channels = LostChannels::<()>::new(8);
        lost_channels.lost(1, vec![(1, identity("a"))], []);
        assert_eq!(lost_channels.ask(&Identity::test("a", 1)), Redelivered::Run);
    }
}
