//! Bindings with a queue or exchange that others declare. The protocol does not report when an exchange is declared or
//! deleted, so they are made again periodically: that costs one request each, and changes nothing where the binding
//! exists.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::Amqp;
use super::failure::{code, reply_code, text};
use crate::routing::Binding;
use crate::tracing::{debug, info, warn};

/// Retry interval while something is missing: the broker logs each attempt.
pub(crate) const MISSING: Duration = Duration::from_secs(2);
/// Interval while nothing is missing.
const PRESENT: Duration = Duration::from_secs(10);

/// Keeps the external bindings in place until the connections are closed or dropped.
pub(super) async fn keep_bound(amqp: Weak<Amqp>) {
    let mut missing: HashSet<Binding> = HashSet::new();
    loop {
        let Some(amqp) = amqp.upgrade() else { return };
        let bindings = amqp.desired.external_bindings();
        let deadline = Instant::now() + MISSING;
        let session = match amqp.link.session(0, deadline).await {
            Ok(session) => session,
            Err(_) if amqp.link.is_closed() => return,
            // The link itself logs why there is no connection.
            Err(_) => {
                drop(amqp);
                sleep(MISSING).await;
                continue;
            }
        };
        missing.retain(|binding| bindings.contains(binding));
        for binding in bindings {
            let Binding { exchange, queue, .. } = &binding;
            match timeout(amqp.limit, amqp.desired.bind(&session, &binding)).await {
                Ok(Ok(())) => {
                    if missing.remove(&binding) {
                        info!(queue, exchange, "the queue is bound to the exchange");
                    }
                }
                Ok(Err(error)) if reply_code(&error) == Some(code::NOT_FOUND) => {
                    if !missing.contains(&binding) {
                        info!(queue, exchange, reason = text(&error), "waiting to bind the queue");
                        missing.insert(binding);
                    }
                }
                Ok(Err(error)) if session.is_alive() => {
                    if !missing.contains(&binding) {
                        warn!(
                            queue,
                            exchange,
                            reason = text(&error),
                            "cannot bind the queue to the exchange"
                        );
                        missing.insert(binding);
                    }
                }
                _ => {
                    debug!(queue, exchange, "timed out binding the queue");
                    break;
                }
            }
        }
        // Do not keep the connections alive during the sleep.
        drop((session, amqp));
        sleep(if missing.is_empty() { PRESENT } else { MISSING }).await;
    }
}
