//! Decides which acks are due: always the settled front, the rest once it has waited long enough or makes up a notable
//! part of what may be out at once.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Identity, Ledger};
use super::unconfirmed_verdicts::UnconfirmedVerdicts;
use crate::connection::amqp::subscription::Ack;

/// How long the ack of a finished task waits for a slower task before it is sent on its own.
const STRAGGLER: Duration = Duration::from_millis(4);

/// The acks of one channel.
pub(super) struct Acks {
    pub(super) ledger: Ledger,
    /// Acks that the queue may not have yet.
    pub(super) unconfirmed_verdicts: UnconfirmedVerdicts,
    /// When done deliveries started to wait for unsettled ones before them.
    held_since: Option<Instant>,
    /// How many deliveries may be out at once.
    most: usize,
}

impl Acks {
    pub(super) fn new(most: usize) -> Self {
        Self {
            ledger: Ledger::default(),
            unconfirmed_verdicts: UnconfirmedVerdicts::default(),
            held_since: None,
            most,
        }
    }

    /// Takes the acks that are due, or `all` that can be written, and passes the messages settled by the front to
    /// `settled`.
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
        self.unconfirmed_verdicts.wrote(acks.len(), Instant::now());
        acks
    }

    /// When the acks of waiting deliveries become due.
    pub(super) fn straggler(&self) -> Option<Instant> {
        self.held_since.map(|since| since + STRAGGLER)
    }

    /// Resets after the channel is lost. Returns the messages that were out, by tag, and those that were done but whose
    /// acks may not have arrived.
    pub(super) fn lost(&mut self) -> (Vec<(u64, Identity)>, Vec<Identity>) {
        (self.held_since, self.unconfirmed_verdicts) = Default::default();
        self.ledger.take_all()
    }
}
