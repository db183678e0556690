//! Passes verdicts from settled deliveries to their lane.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::broker::{Settle, Verdict};

/// A verdict: the number of the channel, the tag there, and the decision.
pub(super) type Settled = (u64, u64, Verdict);

/// Receives the verdicts of all channels that a lane has had.
pub(super) struct Verdicts {
    /// The number of the current channel.
    pub(super) channel: u64,
    /// Receives the verdicts of the current channel.
    pub(super) sink: Arc<dyn Settle>,
    /// Unbounded, since a verdict must not block; there are never more verdicts than the prefetch allows deliveries.
    sender: mpsc::UnboundedSender<Settled>,
    inbox: mpsc::UnboundedReceiver<Settled>,
}

/// Receives the verdicts of one channel.
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

    /// Switches to the next channel.
    pub(super) fn next_channel(&mut self) {
        self.channel += 1;
        self.sink = Arc::new(LaneSettler { channel: self.channel, verdicts: self.sender.clone() });
    }

    /// Adds a verdict after a pause.
    pub(super) fn put_off(&self, settled: Settled, pause: Duration) {
        let sender = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            // An error means that the lane has ended: the broker has the message back.
            let _ = sender.send(settled);
        });
    }

    /// True when no verdict is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Waits for verdicts, and takes up to `most` that have arrived.
    pub(super) async fn take(&mut self, taken: &mut Vec<Settled>, most: usize) {
        self.inbox.recv_many(taken, most).await;
    }

    /// Takes a verdict that has already arrived.
    pub(super) fn take_now(&mut self) -> Option<Settled> {
        self.inbox.try_recv().ok()
    }
}
