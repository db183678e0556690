//! Moving what waits in a queue to another queue.

use super::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::Publication;

/// Moves up to `most` messages, and returns how many were moved.
pub(crate) async fn transfer(app: &App, from: &str, to: &str, most: Option<u64>) -> Outcome<u64> {
    if from == to {
        return Err(Failure::usage(format!("`{from}` is both ends of the move: choose another queue")));
    }
    let (broker, info) = super::queue(app, from).await?;
    app.ensure_queue(to).await?;
    // What arrives meanwhile must not keep us moving.
    let most = most.unwrap_or(u64::MAX).min(info.ready);
    let mut moved = 0;
    while moved < most
        && let Some(delivery) = broker.get(from).await?
    {
        let publication = Publication {
            routing_key: to.to_owned(),
            message: delivery.message.clone(),
            mandatory: true,
            ..Publication::default()
        };
        // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
        match broker.publish(publication).await {
            Ok(()) => delivery.ack(),
            Err(error) => {
                delivery.requeue();
                let (code, why) = Failure::from(error).in_words();
                return Err(Failure::new(code, format!("{moved} moved, then: {why}")));
            }
        }
        moved += 1;
    }
    Ok(moved)
}
