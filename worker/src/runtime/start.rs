//! How a worker begins: it waits for a broker that is away, and gives up on what waiting cannot mend.

use std::time::Duration;

use super::handle::WorkerHandle;
use crate::broker::{Broker, Consumer, Subscription};
use crate::error::{Error, Result};
use crate::routing::Topology;
use crate::show;

/// Declares, waiting for a broker that is away. False when the worker was stopped meanwhile.
pub(super) async fn declare(broker: &dyn Broker, topology: &Topology, handle: &WorkerHandle) -> Result<bool> {
    let mut patience = Patience::default();
    loop {
        let error = tokio::select! {
            biased;
            () = handle.warm.cancelled() => return Ok(false),
            done = broker.declare(topology) => match done {
                Ok(()) => return Ok(true),
                Err(error) => error,
            },
        };
        patience.wait("declare the queues", error, handle).await?;
    }
}

/// Begins to consume, waiting for a broker that is away. `None` when the worker was stopped meanwhile.
pub(super) async fn consume(
    broker: &dyn Broker,
    wanted: Subscription,
    handle: &WorkerHandle,
) -> Result<Option<Consumer>> {
    let mut patience = Patience::default();
    loop {
        let error = tokio::select! {
            biased;
            () = handle.warm.cancelled() => return Ok(None),
            done = broker.consume(wanted.clone()) => match done {
                Ok(consumer) => return Ok(Some(consumer)),
                Err(error) => error,
            },
        };
        patience.wait("consume", error, handle).await?;
    }
}

/// Growing pauses between attempts to reach a broker that is away.
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(Duration::from_millis(500))
    }
}

impl Patience {
    /// Says what is wrong and pauses; an error that waiting cannot mend is returned.
    pub(super) async fn wait(&mut self, what: &str, error: Error, handle: &WorkerHandle) -> Result<()> {
        if !error.is_connection() && !error.is_timeout() {
            return Err(error);
        }
        self.pause(what, &error, handle).await;
        Ok(())
    }

    /// Says what is wrong and pauses.
    pub(super) async fn pause(&mut self, what: &str, error: &Error, handle: &WorkerHandle) {
        tracing::warn!(error = format!("{error:#}"), again_in = %show::duration(self.0), "cannot {what} yet");
        tokio::select! {
            () = handle.warm.cancelled() => {}
            () = tokio::time::sleep(self.0) => {}
        }
        self.0 = (self.0 * 2).min(Duration::from_secs(10));
    }
}
