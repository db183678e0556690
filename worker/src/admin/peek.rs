//! Looking at what waits in a queue. A broker hands a message out only by giving it to somebody: the messages are taken,
//! held for a moment, and go back to their places.

use super::failure::Outcome;
use crate::app::App;
use crate::broker::Verdict;
use crate::message::Message;

/// The first messages of a queue, the oldest first.
pub(crate) async fn peek(app: &App, queue: &str, most: u32) -> Outcome<Vec<Message>> {
    let (broker, _) = super::queue(app, queue).await?;
    let (mut messages, mut held) = (Vec::new(), Vec::new());
    let mut ended = Ok(());
    while messages.len() < most as usize {
        match broker.get(queue).await {
            Ok(Some(delivery)) => {
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
    ended?;
    Ok(messages)
}
