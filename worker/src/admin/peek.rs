//! Looking at the messages waiting in a queue, without touching them if the broker can do that. RabbitMQ shows a message
//! only by delivering it: there, messages are taken, held for a moment and returned to their places.

use super::failure::Outcome;
use crate::app::App;
use crate::broker::administration::PEEK_BYTES;
use crate::broker::walk::{Taken, Walk};
use crate::error::Result;
use crate::message::Message;

/// The first messages of a queue, the oldest first.
pub(crate) async fn peek(app: &App, queue: &str, most: u32) -> Outcome<Vec<Message>> {
    let (broker, _) = super::queue(app, queue).await?;
    match broker.peek(queue, most as usize).await {
        Err(error) if error.is_unsupported() => {
            let (broker, ready) = super::ready(app, queue).await?;
            Ok(take(Walk::new(broker, queue, ready.min(most.into()))).await?)
        }
        messages => Ok(messages?),
    }
}

/// Takes messages and requeues them.
async fn take(mut walk: Walk) -> Result<Vec<Message>> {
    let (mut messages, mut room) = (Vec::new(), PEEK_BYTES);
    let taken = async {
        while room > 0
            && let Some(Taken { delivery, place }) = walk.next().await?
        {
            room = room.saturating_sub(delivery.message.body.len());
            messages.push(delivery.message);
            walk.hold(place, delivery.settlement);
        }
        Ok(())
    }
    .await;
    walk.end().await;
    taken.map(|()| messages)
}
