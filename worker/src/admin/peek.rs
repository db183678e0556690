//! Looking at what waits in a queue: without touching it where the broker can do that. RabbitMQ hands a message out only
//! by giving it to somebody: there the messages are taken, held for a moment, and go back to their places.

use super::failure::Outcome;
use crate::app::App;
use crate::broker::administration::PEEK_BYTES;
use crate::broker::{Broker, Verdict};
use crate::error::Result;
use crate::message::Message;

/// The first messages of a queue, the oldest first.
pub(crate) async fn peek(app: &App, queue: &str, most: u32) -> Outcome<Vec<Message>> {
    let (broker, _) = super::queue(app, queue).await?;
    match broker.peek(queue, most as usize).await {
        Err(error) if error.is_unsupported() => Ok(take(&*broker, queue, most).await?),
        messages => Ok(messages?),
    }
}

/// Takes messages and gives them back.
async fn take(broker: &dyn Broker, queue: &str, most: u32) -> Result<Vec<Message>> {
    let (mut messages, mut held, mut room) = (Vec::new(), Vec::new(), PEEK_BYTES);
    let mut ended = Ok(());
    while messages.len() < most as usize && room > 0 {
        match broker.get(queue).await {
            Ok(Some(delivery)) => {
                room = room.saturating_sub(delivery.message.body.len());
                messages.push(delivery.message);
                held.push(delivery.settlement);
            }
            Ok(None) => break,
            Err(error) => {
                ended = Err(error);
                break;
            }
        }
    }
    for settlement in held {
        settlement.settle(Verdict::Requeue);
    }
    ended.map(|()| messages)
}
