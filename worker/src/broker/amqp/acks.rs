//! Which acks are due: the settled beginning always, the rest when it has waited long enough, or is a notable part of
//! what may be out at once.

use std::time::Duration;

use tokio::time::Instant;

use super::ledger::{Identity, Ledger};
use crate::connection::amqp::subscription::Ack;

/// How long a done task waits for a slower one before it is acked on its own.
const STRAGGLER: Duration = Duration::from_millis(4);

/// With so many acks on their way, a quorum queue has them all; RabbitMQ keeps those beyond 32 back in the channel until the
/// queue has written the ones before, and loses them if the channel is closed meanwhile: the messages would come again.
const FEW: usize = 24;
/// How long to give the queue for more. Nothing in the protocol tells that it has them.
const SINKS: Duration = Duration::from_millis(500);

/// The acks of one channel.
pub(super) struct Acks {
    pub(super) ledger: Ledger,
    /// How many were written since the queue surely had all, and when the last one was.
    sinking: Option<(usize, Instant)>,
    /// Since when a done one has waited for those before it.
    held_since: Option<Instant>,
    /// How many may be out at once.
    most: usize,
}

impl Acks {
    pub(super) fn new(most: usize) -> Self {
        Self { ledger: Ledger::default(), sinking: None, held_since: None, most }
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
        self.wrote(acks.len(), Instant::now());
        acks
    }

    fn wrote(&mut self, acks: usize, now: Instant) {
        let before = self.sinking.filter(|(_, last)| now < *last + SINKS).map_or(0, |(count, _)| count);
        if acks > 0 {
            self.sinking = Some((before + acks, now));
        }
    }

    /// When the queue will have what was written, if it may not have it at this time.
    pub(super) fn sunk_at(&self, now: Instant) -> Option<Instant> {
        let (count, last) = self.sinking?;
        Some(last + SINKS).filter(|sunk| count > FEW && now < *sunk)
    }

    /// When done ones have waited long enough.
    pub(super) fn straggler(&self) -> Option<Instant> {
        self.held_since.map(|since| since + STRAGGLER)
    }

    /// The channel is gone: what was out, by tag, and what was done and whose ack perhaps did not arrive.
    pub(super) fn lost(&mut self) -> (Vec<(u64, Identity)>, Vec<Identity>) {
        (self.held_since, self.sinking) = (None, None);
        self.ledger.take_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_acks_in_a_short_time_are_given_time_and_few_are_not() {
        let (mut acks, begun) = (Acks::new(100), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        acks.wrote(FEW, at(0));
        acks.wrote(0, at(100));
        assert_eq!(acks.sunk_at(at(0)), None);
        acks.wrote(1, at(300));
        assert_eq!((acks.sunk_at(at(300)), acks.sunk_at(at(799))), (Some(at(800)), Some(at(800))));
        assert_eq!(acks.sunk_at(at(800)), None);
        acks.wrote(FEW, at(800));
        assert_eq!(acks.sunk_at(at(800)), None, "the others are in the queue");
        acks.wrote(1, at(801));
        acks.lost();
        assert_eq!(acks.sunk_at(at(801)), None, "so is nothing of a channel that is gone");
    }
}
