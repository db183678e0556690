//! Operations on a running system, shared by the commands and the management page: listing queues, exchanges and
//! bindings, searching dead letters, replaying or dropping them.

#[cfg(feature = "dashboard")]
pub(crate) mod connection;
#[cfg(feature = "dashboard")]
pub(crate) mod connections;
pub(crate) mod dead;
mod each;
#[cfg(feature = "dashboard")]
pub(crate) mod explain;
pub(crate) mod failure;
pub(crate) mod inventory;
#[cfg(feature = "amqp")]
mod management;
#[cfg(feature = "dashboard")]
pub(crate) mod one_message;
#[cfg(feature = "dashboard")]
pub(crate) mod peek;
pub(crate) mod progress;
pub(crate) mod schedules;
#[cfg(feature = "dashboard")]
pub(crate) mod transfer;

use std::sync::Arc;
use std::time::Duration;

use self::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::{Broker, QueueInfo};

/// The counts of one queue.
pub(crate) async fn queue(app: &App, name: &str) -> Outcome<(Arc<dyn Broker>, QueueInfo)> {
    let broker = app.broker().await?;
    let found = broker.queues(&[name.to_owned()]).await?.into_iter().find(|queue| queue.name == name);
    let url = &app.config().broker_url;
    let info = found.ok_or_else(|| Failure::failed(format!("there is no queue `{name}` on {url}")))?;
    Ok((broker, info))
}

/// How many times to ask for the length of a queue that reports none but delivers a message, and the pause in between.
const ASKED: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(250);

/// How many messages of a queue a walk covers: those that are there now.
///
/// A quorum queue that is busy for a quarter of a second reports that it is empty, so an empty one is asked for a message.
pub(crate) async fn ready(app: &App, name: &str) -> Outcome<(Arc<dyn Broker>, u64)> {
    for _ in 0..ASKED {
        let (broker, info) = queue(app, name).await?;
        if info.ready > 0 {
            return Ok((broker, info.ready));
        }
        match broker.get(name).await? {
            None => return Ok((broker, 0)),
            Some(delivery) => delivery.requeue(),
        }
        tokio::time::sleep(BETWEEN).await;
    }
    Err(Failure::new(
        failure::TIME_IS_UP,
        format!("the broker is busy and cannot report the length of queue `{name}`: try again later"),
    ))
}
