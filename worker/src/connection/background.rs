//! A background thread for the library's own timers, tasks and some connections: callers may use any executor, or a tokio
//! runtime without timers or with a paused clock.

use std::future::Future;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

static HANDLE: OnceLock<Handle> = OnceLock::new();
static STARTING: Mutex<()> = Mutex::new(());

/// Returns the runtime of the thread. The first call starts it; it runs until the process exits and does no computation.
fn handle() -> Result<&'static Handle> {
    if let Some(handle) = HANDLE.get() {
        return Ok(handle);
    }
    let _one_at_a_time = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = HANDLE.get() {
        return Ok(handle);
    }
    let failed = |error| Error::connection("cannot start the timer thread").with_source(error);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("mq-worker-timer".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(failed)?;
    Ok(HANDLE.get_or_init(|| handle))
}

/// Awaits a future for at most `limit`. Returns `None` on timeout.
///
/// # Errors
/// The thread cannot be started.
pub(crate) async fn timeout<T>(limit: Duration, future: impl Future<Output = T>) -> Result<Option<T>> {
    let timed = {
        // A timer belongs to the runtime it is created in, wherever it is polled.
        let _entered = handle()?.enter();
        tokio::time::timeout(limit, future)
    };
    Ok(timed.await.ok())
}

/// Sleeps for `duration`.
///
/// # Errors
/// The thread cannot be started.
pub(crate) async fn sleep(duration: Duration) -> Result<()> {
    timeout(duration, std::future::pending::<()>()).await.map(drop)
}

/// Spawns a task that outlives its caller.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> Result<JoinHandle<T>> {
    Ok(handle()?.spawn(task))
}
