//! Sends requests about streams, which RabbitMQ may refuse.

use std::future::Future;
use std::time::Duration;

use crate::connection::amqp::Amqp;
use crate::connection::amqp::failure::{is_channel_error, text};
use crate::connection::amqp::link::Session;
use crate::error::Result;

/// Part of the reply about a stream that another client is declaring: it exists, but its replica does not run yet.
/// RabbitMQ 4 replies "a running replica".
const NO_REPLICA: &str = "replica on the local node";
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(200);

/// Sends a request on the connection for streams, within `limit` once there is a connection. The inner error is the broker's
/// refusal.
///
/// # Errors
/// No connection within the time that connecting may take, or no answer in time.
pub(super) async fn ask<T, F>(
    amqp: &Amqp,
    what: &str,
    limit: Duration,
    ask: impl Fn(Session) -> F,
) -> Result<lapin::Result<T>>
where
    F: Future<Output = lapin::Result<T>>,
{
    let ask = async |session| match ask(session).await {
        Err(error) if is_channel_error(&error) => Ok(Err(error)),
        answer => answer.map(Ok),
    };
    amqp.streams.reach(what, amqp.limit).await?;
    let mut tries = 0..TRIES;
    loop {
        match amqp.streams.request(what, limit, &ask).await? {
            Err(error) if text(&error).contains(NO_REPLICA) && tries.next().is_some() => {
                tokio::time::sleep(PAUSE).await;
            }
            answer => return Ok(answer),
        }
    }
}
