//! Tracks whether a quorum queue has the verdicts that were written on a channel.
//!
//! RabbitMQ holds back verdicts beyond 32 in the channel until the queue has written the ones before, and loses them if
//! the channel is closed meanwhile: the messages would be redelivered. The protocol does not report when the queue has
//! them.

use std::time::Duration;

use tokio::time::Instant;

/// This many verdicts in flight are never held back.
const FEW: usize = 24;
/// How long the queue may take for more than that.
const SETTLE_TIME: Duration = Duration::from_millis(500);

/// The verdicts of one channel: how many were written since the queue certainly had all, and when the last one was
/// written.
#[derive(Debug, Default)]
pub(super) struct UnconfirmedVerdicts(Option<(usize, Instant)>);

impl UnconfirmedVerdicts {
    /// Records that this many were written.
    pub(super) fn wrote(&mut self, verdicts: usize, now: Instant) {
        let before = self.0.filter(|(_, last)| now < *last + SETTLE_TIME).map_or(0, |(count, _)| count);
        if verdicts > 0 {
            self.0 = Some((before + verdicts, now));
        }
    }

    /// When the queue will have everything that was written; `None` if it already has.
    pub(super) fn over_at(&self, now: Instant) -> Option<Instant> {
        let (count, last) = self.0?;
        Some(last + SETTLE_TIME).filter(|over| count > FEW && now < *over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_verdicts_in_a_short_time_are_given_time_and_few_are_not() {
        let (mut unconfirmed_verdicts, begun) = (UnconfirmedVerdicts::default(), Instant::now());
        let at = |millis| begun + Duration::from_millis(millis);
        unconfirmed_verdicts.wrote(FEW, at(0));
        unconfirmed_verdicts.wrote(0, at(100));
        assert_eq!(unconfirmed_verdicts.over_at(at(0)), None);
        unconfirmed_verdicts.wrote(1, at(300));
        assert_eq!(
            (unconfirmed_verdicts.over_at(at(300)), unconfirmed_verdicts.over_at(at(799))),
            (Some(at(800)), Some(at(800)))
        );
        assert_eq!(unconfirmed_verdicts.over_at(at(800)), None);
        unconfirmed_verdicts.wrote(FEW, at(800));
        assert_eq!(unconfirmed_verdicts.over_at(at(800)), None, "the others are in the queue");
    }
}
