//! What people do to a running system, for the commands and the management page alike: list queues, exchanges and
//! bindings, look through dead letters, replay or drop them.

#[cfg(feature = "dashboard")]
pub(crate) mod connection;
#[cfg(feature = "dashboard")]
pub(crate) mod connections;
pub(crate) mod dead;
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
pub(crate) mod schedules;
#[cfg(feature = "dashboard")]
pub(crate) mod transfer;

use std::sync::Arc;

use self::failure::{Failure, Outcome};
use crate::app::App;
use crate::broker::{Broker, QueueInfo};

/// How full one queue is.
pub(crate) async fn queue(app: &App, name: &str) -> Outcome<(Arc<dyn Broker>, QueueInfo)> {
    let broker = app.broker().await?;
    let found = broker.queues(&[name.to_owned()]).await?.into_iter().find(|queue| queue.name == name);
    let url = &app.config().broker_url;
    let info = found.ok_or_else(|| Failure::failed(format!("there is no queue `{name}` on {url}")))?;
    Ok((broker, info))
}
