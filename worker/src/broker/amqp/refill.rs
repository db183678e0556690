//! Reduces a prefetch: new lanes take over from an old one as its deliveries are settled.
//!
//! RabbitMQ cannot change the prefetch of a consumer, and the deliveries that a cancelled one holds do not count
//! against the next. If the new consumer started at once, it would withhold its whole prefetch from other workers, in
//! addition to everything that the old one still runs, until the longest of those runs has ended.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::select_all;

use super::status::LaneStatus;

/// A consumer that starts when enough of the old deliveries are settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) prefetch: u16,
    /// How many of the old deliveries may be left when it starts.
    pub(super) left: usize,
}

/// The number of parts in which a consumer is replaced.
const PARTS: u32 = 4;

/// Splits a prefetch among consumers. Together with the old deliveries they never hold more than the prefetch, and less
/// than a quarter of it is unused while the next one waits for old deliveries to be settled.
pub(super) fn shares(prefetch: u16) -> impl Iterator<Item = Share> {
    let up_to = move |part: u32| u16::try_from(u32::from(prefetch) * part / PARTS).unwrap_or(prefetch);
    let share = move |part| Share {
        prefetch: up_to(part) - up_to(part - 1),
        left: usize::from(prefetch - up_to(part)),
    };
    (1..=PARTS).map(share).filter(|share| share.prefetch > 0)
}

/// Resolves when no more than this many deliveries are left in these lanes.
pub(super) async fn until_left(lanes: Vec<Arc<LaneStatus>>, left: usize) {
    let mut unsettled: Vec<_> = lanes.iter().map(|lane| lane.unsettled.subscribe()).collect();
    while unsettled.iter_mut().map(|lane| *lane.borrow_and_update()).sum::<usize>() > left {
        // Never an error: `lanes` keeps the senders alive.
        let _ = select_all(unsettled.iter_mut().map(|lane| lane.changed().boxed())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_and_what_is_left_never_exceed_the_prefetch() {
        for prefetch in [1, 2, 3, 7, 20, u16::MAX] {
            let shares: Vec<Share> = shares(prefetch).collect();
            assert_eq!(shares.iter().map(|share| share.prefetch).sum::<u16>(), prefetch);
            let mut begun = 0;
            for share in shares {
                begun += usize::from(share.prefetch);
                assert!(share.prefetch > 0 && begun + share.left <= usize::from(prefetch), "{share:?}");
            }
        }
        assert_eq!(shares(1).collect::<Vec<_>>(), [Share { prefetch: 1, left: 0 }]);
    }

    #[test]
    fn what_is_left_in_all_lanes_counts() {
        let lanes: Vec<Arc<LaneStatus>> = (0..2).map(|_| Arc::default()).collect();
        for lane in &lanes {
            lane.unsettled.send_replace(3);
        }
        let mut waiting = Box::pin(until_left(lanes.clone(), 3));
        assert!((&mut waiting).now_or_never().is_none(), "six are left");
        lanes[1].unsettled.send_replace(2);
        assert!((&mut waiting).now_or_never().is_none(), "five are left");
        lanes[0].unsettled.send_replace(1);
        assert!((&mut waiting).now_or_never().is_some(), "three are left");
        assert!(until_left(Vec::new(), 0).now_or_never().is_some());
    }
}
