//! How a worker begins: it waits for a broker that is away, and gives up on what waiting cannot mend.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::handle::WorkerHandle;
use crate::broker::{Broker, Consumer, Subscription};
use crate::error::{Error, Result};
use crate::panics::caught;
use crate::routing::Topology;
use crate::show;
use crate::task::SharedState;
use crate::task::registry::run_setup;

/// How long a set-up function that is stopped may take to let go of what it has.
const TIDY_UP: Duration = Duration::from_secs(1);
use crate::tracing;

/// Runs the `#[setup]` functions, on a thread of their own: a plain one keeps it for as long as it likes. `None` when the
/// worker was stopped meanwhile: an async one ends at its next await then, and a plain one is left behind.
pub(super) async fn set_up(handle: &WorkerHandle) -> Result<Option<SharedState>> {
    let (tell, mut told) = oneshot::channel();
    let stop = handle.warm.child_token();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let runtime = Handle::current();
    let prepare = async move {
        let mut shared = SharedState::default();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(None),
            done = run_setup(&mut shared) => done.map(|()| Some(shared)),
        }
    };
    std::thread::Builder::new()
        .name("mq-worker-setup".into())
        .spawn(move || drop(tell.send(caught(|| runtime.block_on(prepare)))))
        .map_err(|error| Error::config("cannot start a thread for `#[setup]`").with_source(error))?;
    let told = tokio::select! {
        biased;
        told = &mut told => Some(told),
        () = handle.warm.cancelled() => tokio::time::timeout(TIDY_UP, told).await.ok(),
    };
    match told {
        None => Ok(None),
        Some(Ok(Ok(prepared))) => prepared,
        Some(Ok(Err(panic))) => Err(Error::config(format!("the set-up panicked: {panic}"))),
        Some(Err(_)) => Err(Error::config("the set-up ended with its runtime")),
    }
}

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
