//! Applies the same work to many messages of a queue: many at a time, each settled on its own.

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::failure::Outcome;
use super::progress::Progress;
use crate::broker::Delivery;
use crate::broker::walk::{Taken, Walk};

/// How many are worked on at once.
const AT_ONCE: usize = 512;

/// What a walk does with a message.
pub(crate) enum Choice {
    Work,
    Hold,
}

/// The fate of a message after the work on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    /// It leaves the queue.
    Done,
    /// It stays where it is.
    Kept,
}

/// Works on the chosen messages of a walk, up to `most`. A message is acked when its work is done, and otherwise held.
///
/// # Errors
/// The first error. After it no further work is started, and the work in progress is completed.
pub(crate) async fn each<F>(
    walk: &mut Walk,
    most: u64,
    progress: &Progress,
    mut choose: impl FnMut(&Delivery) -> Choice,
    work: impl Fn(Delivery) -> F,
) -> Outcome
where
    F: Future<Output = (Delivery, Outcome<Handled>)>,
{
    let mut under_way = FuturesUnordered::new();
    let mut chosen = 0;
    let mut ended: Option<Outcome> = None;
    loop {
        let goes_on = ended.is_none() && chosen < most;
        tokio::select! {
            biased;
            Some((place, delivery, fate)) = under_way.next(), if !under_way.is_empty() => {
                let (delivery, fate): (Delivery, Outcome<Handled>) = (delivery, fate);
                if let Ok(Handled::Done) = fate {
                    delivery.ack();
                    progress.has_done_one();
                } else {
                    walk.hold(place, delivery.settlement);
                }
                if let (Err(failure), None) = (fate, &ended) {
                    ended = Some(Err(failure));
                }
            }
            failure = progress.stopped(), if goes_on => ended = Some(Err(failure)),
            taken = walk.next(), if goes_on && under_way.len() < AT_ONCE => match taken {
                Ok(Some(Taken { delivery, place })) => {
                    progress.has_seen(place);
                    match choose(&delivery) {
                        Choice::Hold => walk.hold(place, delivery.settlement),
                        Choice::Work => {
                            chosen += 1;
                            let work = work(delivery);
                            under_way.push(async move {
                                let (delivery, fate) = work.await;
                                (place, delivery, fate)
                            });
                        }
                    }
                }
                Ok(None) => ended = Some(Ok(())),
                Err(error) => ended = Some(Err(error.into())),
            },
            else => return ended.unwrap_or(Ok(())),
        }
    }
}
