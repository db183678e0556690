//! Which acks are due: the settled beginning always, the rest when it has waited long enough, or is a notable part of
//! what may be out at once.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Identity, Ledger};
use super::sinking::Sinking;
use crate::connection::amqp::subscription::Ack;

/// How long a done task waits for a slower one before it is acked on its own.
const STRAGGLER: Duration = Duration::from_millis(4);

/// The acks of one channel.
pub(super) struct Acks {
    pub(super) ledger: Ledger,
    /// Those that the queue may not have yet.
    pub(super) sinking: Sinking,
    /// Since when a done one has waited for those before it.
    held_since: Option<Instant>,
    /// How many may be out at once.
    most: usize,
}

impl Acks {
    pub(super) fn new(most: usize) -> Self {
        Self { ledger: Ledger::default(), sinking: Sinking::default(), held_since: None, most }
    }

    /// Takes what is due by now, or all that can be acked, and says whose messages the beginning settles.
    pub(super) fn take_due(&mut self, all: bool, settled: impl FnMut(Identity)) -> Vec<Ack> {
        let first = self.ledger.take_prefix(settled);
        let is_due = all
            || self.ledger.held() * 8 >= self.most
            || self.straggler().is_some_and(|due| due <= Instant::now());
        let rest = if is_due { self.ledger.take_rest() } else { Vec::new() };
        self.held_since = match self.ledger.held() {
            0 => None,
            _ => self.held_since.or_else(|| Some(Instant::now())),
        };
        let acks: Vec<Ack> = first.into_iter().chain(rest).collect();
        self.sinking.wrote(acks.len(), Instant::now());
        acks
    }

    /// When done ones have waited long enough.
    pub(super) fn straggler(&self) -> Option<Instant> {
        self.held_since.map(|since| since + STRAGGLER)
    }

    /// The channel is gone: what was out, by tag, and what was done and whose ack perhaps did not arrive.
    pub(super) fn lost(&mut self) -> (Vec<(u64, Identity)>, Vec<Identity>) {
        (self.held_since, self.sinking) = Default::default();
        self.ledger.take_all()
    }
}
