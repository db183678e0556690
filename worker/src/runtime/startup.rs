//! Worker startup: waits for a broker that is away, and gives up on errors that waiting cannot fix.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::handle::WorkerHandle;
use crate::backend::ResultBackend;
use crate::broker::{Broker, Consumer, Subscription};
use crate::error::{Error, Result};
use crate::panics::caught;
use crate::routing::Topology;
use crate::show;
use crate::task::SharedState;
use crate::task::registry::run_setup;

use crate::tracing;

/// How long a stopped `#[setup]` function may take to clean up.
const SETUP_CLEANUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a worker did not start.
#[derive(Debug)]
pub(super) enum NotReady {
    /// It was stopped during startup.
    Stopped,
    /// An error that waiting cannot fix.
    Failed(Error),
}

impl From<Error> for NotReady {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Runs the `#[setup]` functions on a separate thread, since a plain one may block it for as long as it likes. If the worker
/// is stopped meanwhile, an async function ends at its next await and a plain one is left behind.
pub(super) async fn set_up(handle: &WorkerHandle) -> Result<SharedState, NotReady> {
    let (sender, mut done) = oneshot::channel();
    let stop = handle.warm.child_token();
    let _stopped_when_dropped = stop.clone().drop_guard();
    let runtime = Handle::current();
    let prepare = async move {
        let mut shared = SharedState::default();
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(NotReady::Stopped),
            done = run_setup(&mut shared) => Ok(done.map(|()| shared)?),
        }
    };
    std::thread::Builder::new()
        .name("mq-worker-setup".into())
        .spawn(move || drop(sender.send(caught(|| runtime.block_on(prepare)))))
        .map_err(|error| Error::config("cannot start a thread for `#[setup]`").with_source(error))?;
    let done = tokio::select! {
        biased;
        done = &mut done => Some(done),
        () = handle.warm.cancelled() => tokio::time::timeout(SETUP_CLEANUP_TIMEOUT, done).await.ok(),
    };
    match done {
        None => Err(NotReady::Stopped),
        Some(Ok(Ok(prepared))) => prepared,
        Some(Ok(Err(panic))) => Err(Error::config(format!("a `#[setup]` function panicked: {panic}")).into()),
        Some(Err(_)) => Err(Error::config("`#[setup]` stopped: its async runtime was shut down").into()),
    }
}

/// Queries the result backend once, so that one that refuses this worker is found before the first task has run. One that is
/// away may come back: outcomes wait for it.
pub(super) async fn check_result_backend(backend: &dyn ResultBackend) -> Result<(), NotReady> {
    match backend.fetch("mq-worker").await {
        Err(error) if error.is_access_refused() || error.is_config() => Err(error.into()),
        Err(error) if error.is_connection() || error.is_timeout() || error.is_storage() => {
            tracing::warn!(
                error = format!("{error:#}"),
                "result backend unreachable: finished tasks will wait for it"
            );
            Ok(())
        }
        // Some backends cannot be queried: they store nothing, or store it elsewhere.
        _ => Ok(()),
    }
}

/// Declares the topology, waiting for a broker that is away.
pub(super) async fn declare(
    broker: &dyn Broker,
    topology: &Topology,
    handle: &WorkerHandle,
) -> Result<(), NotReady> {
    until_done("declare the queues", handle, || broker.declare(topology)).await
}

/// Starts consuming, waiting for a broker that is away.
pub(super) async fn consume(
    broker: &dyn Broker,
    wanted: Subscription,
    handle: &WorkerHandle,
) -> Result<Consumer, NotReady> {
    until_done("consume", handle, || broker.consume(wanted.clone())).await
}

async fn until_done<'a, T>(
    what: &str,
    handle: &WorkerHandle,
    attempt: impl Fn() -> BoxFuture<'a, Result<T>>,
) -> Result<T, NotReady> {
    let mut patience = RetryPause::default();
    loop {
        let error = tokio::select! {
            biased;
            () = handle.warm.cancelled() => return Err(NotReady::Stopped),
            done = attempt() => match done {
                Ok(done) => return Ok(done),
                Err(error) => error,
            },
        };
        if !error.is_connection() && !error.is_timeout() {
            return Err(error.into());
        }
        patience.pause(what, &error, handle).await;
    }
}

/// Growing pauses between attempts to reach a broker that is away.
pub(super) struct RetryPause(Duration);

impl Default for RetryPause {
    fn default() -> Self {
        Self(Duration::from_millis(500))
    }
}

impl RetryPause {
    /// Logs the error and pauses.
    pub(super) async fn pause(&mut self, what: &str, error: &Error, handle: &WorkerHandle) {
        tracing::warn!(error = format!("{error:#}"), again_in = %show::duration(self.0), "cannot {what} yet");
        tokio::select! {
            () = handle.warm.cancelled() => {}
            () = tokio::time::sleep(self.0) => {}
        }
        self.0 = (self.0 * 2).min(Duration::from_secs(10));
    }
}
