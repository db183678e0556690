//! Moving one waiting message to another queue.

use super::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::{Delivery, Publication, Settlement, Verdict};

/// Moves the message of a call from one queue to another.
///
/// A broker has no other way to a message than to take what is before it: that is held meanwhile, and goes back to its
/// place.
pub(crate) async fn relocate(app: &App, id: &str, from: &str, to: &str) -> Outcome {
    if from == to {
        return Err(Failure::usage(format!("{id} is in `{to}` already: choose another queue")));
    }
    let (broker, info) = super::queue(app, from).await?;
    app.ensure_queue(to).await?;
    let mut held: Vec<Settlement> = Vec::new();
    let found = async {
        // What arrives meanwhile must not keep us looking.
        for _ in 0..info.ready {
            let Some(delivery) = broker.get(from).await? else { break };
            if delivery.message.id() == Some(id) {
                return Ok(Some(delivery));
            }
            held.push(delivery.settlement);
        }
        Ok::<Option<Delivery>, crate::error::Error>(None)
    };
    let found = found.await;
    for settlement in held {
        settlement.settle(Verdict::Requeue);
    }
    let Some(delivery) = found? else {
        return Err(Failure::failed(format!(
            "{id} is not among the {} that wait in `{from}`: it runs, waits for its time or has ended (`mq-worker explain \
             {id}` tells), or it is in another queue (--from)",
            crate::show::counted(info.ready, "message")
        )));
    };
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
            return Err(error.into());
        }
    }
    Ok(())
}
