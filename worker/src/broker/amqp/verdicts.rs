//! The way of the verdicts from those who settle to the lane.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::broker::{Settle, Verdict};

/// A verdict: the number of the channel, the tag there, and what was decided.
pub(super) type Settled = (u64, u64, Verdict);

/// Takes the verdicts of all channels that a lane has had.
pub(super) struct Verdicts {
    /// The number of the present channel.
    pub(super) channel: u64,
    /// Takes the verdicts of the present channel.
    pub(super) sink: Arc<dyn Settle>,
    /// Unbounded, since a verdict must not block; there are no more of them than the prefetch allows deliveries.
    sender: mpsc::UnboundedSender<Settled>,
    inbox: mpsc::UnboundedReceiver<Settled>,
}

/// Takes the verdicts of one channel.
struct LaneSettler {
    channel: u64,
    verdicts: mpsc::UnboundedSender<Settled>,
}

impl Settle for LaneSettler {
    fn settle(&self, tag: u64, verdict: Verdict) {
        // An error means that the lane has ended: the broker has the message back.
        let _ = self.verdicts.send((self.channel, tag, verdict));
    }
}

impl Verdicts {
    pub(super) fn new() -> Self {
        let (sender, inbox) = mpsc::unbounded_channel();
        Self {
            channel: 1,
            sink: Arc::new(LaneSettler { channel: 1, verdicts: sender.clone() }),
            sender,
            inbox,
        }
    }

    /// From now on there is another channel.
    pub(super) fn next_channel(&mut self) {
        self.channel += 1;
        self.sink = Arc::new(LaneSettler { channel: self.channel, verdicts: self.sender.clone() });
    }

    /// Takes a verdict after a pause.
    pub(super) fn put_off(&self, settled: Settled, pause: Duration) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // An error means that the lane has ended: the broker has the message back.
            let _ = sender.send(settled);
        });
    }

    /// True when all that have come are taken.
    pub(super) fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Waits for verdicts and takes all that have arrived.
    pub(super) async fn take(&mut self, taken: &mut Vec<Settled>, most: usize) {
        self.inbox.recv_many(taken, most).await;
    }

    /// Takes one that has arrived.
    pub(super) fn take_now(&mut self) -> Option<Settled> {
        self.inbox.try_recv().ok()
    }
}
