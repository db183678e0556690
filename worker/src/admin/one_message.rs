//! Moving one waiting message to another queue.

use super::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::Publication;
use crate::broker::walk::{Taken, Walk};

/// Moves the message of a call from one queue to another.
///
/// To get at a message, the ones ahead of it have to be taken from the broker: they are held meanwhile and return to
/// their places.
pub(crate) async fn relocate(app: &App, id: &str, from: &str, to: &str) -> Outcome {
    if from == to {
        return Err(Failure::usage(format!("{id} is in `{to}` already: choose another queue")));
    }
    let (broker, ready) = super::ready(app, from).await?;
    app.ensure_queue(to).await?;
    let mut walk = Walk::new(broker, from, ready);
    let moved = async {
        while let Some(Taken { delivery, place }) = walk.next().await? {
            if delivery.message.id() != Some(id) {
                walk.hold(place, delivery.settlement);
                continue;
            }
            let publication = Publication::to_queue(to, delivery.message.clone());
            // Published and confirmed first: a crash in between may run the task twice, it may never lose it.
            let published = walk.broker.publish(publication).await;
            match &published {
                Ok(()) => delivery.ack(),
                Err(_) => walk.hold(place, delivery.settlement),
            }
            return published.map(|()| true);
        }
        Ok(false)
    }
    .await;
    walk.end().await;
    if moved? {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "{id} is not among the {} that wait in `{from}`: it runs, waits for its time or has ended (`mq-worker explain {id}` \
         tells), or it is in another queue (--from)",
        crate::show::counted(ready, "message")
    )))
}
