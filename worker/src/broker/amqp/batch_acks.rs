//! The acks of one batch. A few are enough if the settled messages have no unsettled ones before them.

use std::time::{Duration, Instant};

use crate::connection::amqp::subscription::Ack;

/// Fewer messages than this are not acked together while more may follow.
const TOGETHER: usize = 64;
/// With this many acks in flight, RabbitMQ does not hold any of them back in the channel; its limit is 32.
const FEW: usize = 24;

/// Which messages of a batch are acked.
#[derive(Debug, Default)]
pub(super) struct BatchAcks {
    /// All tags up to this one are acked.
    acked: u64,
    /// To be acked.
    done: Vec<u64>,
    since: Option<Instant>,
    /// How many acks were taken.
    count: usize,
}

impl BatchAcks {
    /// Marks a message as done.
    pub(super) fn done(&mut self, tag: u64) {
        self.since.get_or_insert_with(Instant::now);
        self.done.push(tag);
    }

    /// True when there is nothing to ack.
    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// True when some acks may be held back in the channel.
    pub(super) fn are_many(&self) -> bool {
        self.count > FEW
    }

    /// Takes the acks that are due: one that covers many messages, or all once some have waited as long as `straggler`.
    pub(super) fn due(&mut self, now: Instant, straggler: Duration) -> Vec<Ack> {
        match self.since {
            Some(since) if now.duration_since(since) >= straggler => self.all(),
            Some(_) if self.done.len() >= TOGETHER => {
                self.done.sort_unstable();
                let first = self.done.iter().zip(self.acked + 1..).take_while(|(tag, next)| **tag == *next);
                match first.count() {
                    many @ TOGETHER.. => {
                        self.acked += many as u64;
                        self.done.drain(..many);
                        self.since = (!self.done.is_empty()).then_some(now);
                        self.count += 1;
                        vec![Ack { tag: self.acked, multiple: true }]
                    }
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }

    /// Takes the acks for all messages that are done.
    pub(super) fn all(&mut self) -> Vec<Ack> {
        self.since = None;
        self.done.sort_unstable();
        let before = self.acked;
        let mut rest = Vec::new();
        for tag in self.done.drain(..) {
            match tag == self.acked + 1 {
                true => self.acked = tag,
                false => rest.push(Ack { tag, multiple: false }),
            }
        }
        let first = (self.acked > before).then_some(Ack { tag: self.acked, multiple: true });
        let acks: Vec<Ack> = first.into_iter().chain(rest).collect();
        self.count += acks.len();
        acks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(acks: Vec<Ack>) -> Vec<(u64, bool)> {
        acks.into_iter().map(|ack| (ack.tag, ack.multiple)).collect()
    }

    #[test]
    fn only_what_has_nothing_unacked_before_it_is_acked_together() {
        let mut written = BatchAcks::default();
        let mut next = |done: &[u64]| {
            done.iter().for_each(|tag| written.done(*tag));
            tags(written.all())
        };
        assert_eq!(next(&[3, 1, 2]), [(3, true)]);
        assert_eq!(next(&[5, 6]), [(5, false), (6, false)], "the fourth is held");
        assert_eq!(next(&[7]), [(7, false)]);
        assert_eq!(next(&[4, 9]), [(4, true), (9, false)]);
        assert_eq!(next(&[]), []);
    }

    #[test]
    fn many_are_acked_at_once_and_few_wait_for_more() {
        let (mut written, now, straggler) = (BatchAcks::default(), Instant::now(), Duration::from_secs(60));
        (2..=80).for_each(|tag| written.done(tag));
        assert_eq!(tags(written.due(now, straggler)), [], "the first is missing");
        written.done(1);
        written.done(82);
        assert_eq!(tags(written.due(now, straggler)), [(80, true)]);
        assert_eq!(tags(written.due(now, straggler)), []);
        assert_eq!(tags(written.due(now + straggler, straggler)), [(82, false)]);
        assert!(!written.are_many());
        (90..120).for_each(|tag| written.done(tag));
        assert_eq!(written.all().len(), 30);
        assert!(written.are_many());
    }
}
