//! Moving waiting messages to another queue.

use super::each::{Choice, Handled, each};
use super::failure::{Failure, Outcome};
use super::progress::Progress;
use crate::app::App;
use crate::broker::walk::Walk;
use crate::broker::{Delivery, Publication};

/// Moves up to `most` messages, and returns how many were moved.
pub(crate) async fn transfer(
    app: &App,
    from: &str,
    to: &str,
    most: Option<u64>,
    progress: &Progress,
) -> Outcome<u64> {
    if from == to {
        return Err(Failure::usage(format!("`{from}` is both source and destination: choose another queue")));
    }
    let (broker, ready) = super::ready(app, from).await?;
    app.ensure_queue(to).await?;
    let most = most.unwrap_or(u64::MAX).min(ready);
    progress.begins(most);
    let mut walk = Walk::new(broker, from, most);
    let broker = &walk.broker.clone();
    let publish = async |delivery: Delivery| {
        let publication = Publication::to_queue(to, delivery.message.clone());
        // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
        let published = broker.publish(publication).await;
        (delivery, published.map(|()| Handled::Done).map_err(Failure::from))
    };
    let moved = each(&mut walk, most, progress, |_| Choice::Work, publish).await;
    walk.end().await;
    let counts = progress.counts();
    moved.map(|()| counts.done).map_err(|failure| counts.before("moved", failure))
}
