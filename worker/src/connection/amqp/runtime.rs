//! The one thread on which all broker I/O of the process runs.
//!
//! Heartbeats, confirms and acks must go on while user code blocks its own runtime, or while a test's runtime
//! ends: so nothing of them may live on a runtime that belongs to somebody else.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::runtime::{Builder, Handle};

use crate::error::{Error, Result};

static HANDLE: Mutex<Option<Handle>> = Mutex::new(None);

/// The I/O runtime; the first call starts its thread, which lives as long as the process.
pub(super) fn handle() -> Result<Handle> {
    let mut slot = HANDLE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*slot {
        return Ok(handle.clone());
    }
    let failed = |error| Error::connection("cannot start the broker's I/O thread").with_source(error);
    let runtime =
        Builder::new_current_thread().enable_all().thread_name("mq-worker-amqp").build().map_err(failed)?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("mq-worker-amqp".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))
        .map_err(failed)?;
    *slot = Some(handle.clone());
    Ok(handle)
}

/// Runs a future on the I/O runtime, from whatever executor the caller has.
pub(super) async fn run<T: Send + 'static>(
    handle: &Handle,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match handle.spawn(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Error::connection("the broker's I/O thread has stopped").with_source(error)),
        },
    }
}
