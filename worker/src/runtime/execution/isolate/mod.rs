//! Tasks that run in separate processes: `#[task(isolate)]`.
//!
//! For each such run the worker starts its own program again (`process`). The new process recognizes its role by its
//! environment, receives the call from its parent, runs it, replies and exits (`child`). The two communicate over a socket
//! in place of the child's standard input (`wire`); if either side dies, the other one sees it at once. A run can therefore
//! be killed, or crash, without harming the worker; and if the worker is killed, nothing keeps working on a message that is
//! redelivered.

#[cfg(unix)]
mod child;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
pub(super) use process::run;

use crate::error::{Error, Result};
use crate::task::Registry;

/// Set for a process that runs one task; the value is the process id of its worker.
#[cfg(unix)]
const MARK: &str = "MQ_ISOLATED";

/// True when this program can run a single task in a separate process.
static READY: AtomicBool = AtomicBool::new(false);

/// Lets this program run `#[task(isolate)]` tasks, each in a process of its own.
///
/// [`mq_worker::main`](crate::main) calls it. A program that runs a [`Worker`](crate::Worker) in its own `main` must call it
/// there, as early as it can, but after installing an [`App`](crate::App) that its tasks use. It only records that it was
/// called, except in the process that a worker starts for an isolated task: there it runs the `#[setup]` functions and that
/// task, and never returns.
///
/// ```no_run
/// # use mq_worker::{App, Worker};
/// #[tokio::main]
/// async fn main() -> mq_worker::Result<()> {
///     mq_worker::run_isolated();
///     Worker::new(App::global()?)?.run().await?;
///     Ok(())
/// }
/// ```
pub fn run_isolated() {
    READY.store(true, Ordering::Relaxed);
    #[cfg(unix)]
    if std::env::var_os(MARK).is_some() {
        child::run_task_and_exit();
    }
}

/// True when the system is temporarily out of a resource: file handles, processes, memory.
#[cfg(unix)]
fn is_scarcity(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
    Errno::from_io_error(error).is_some_and(|error| scarce.contains(&error))
}

/// True when this program can be started again to run a single task.
pub(crate) fn is_ready() -> bool {
    cfg!(unix) && READY.load(Ordering::Relaxed)
}

/// Checks that the isolated tasks can be run, before the worker takes one.
pub(crate) fn check(registry: &Registry) -> Result<()> {
    let Some(task) = registry.iter().find(|task| task.options.isolate) else { return Ok(()) };
    let problem = if cfg!(not(unix)) {
        "isolated tasks need Unix"
    } else if is_ready() {
        return Ok(());
    } else {
        "this program must call `mq_worker::run_isolated()` first thing in its `main` \
         (or have `mq_worker::main()` for it)"
    };
    Err(Error::config(format!(
        "task `{}` is isolated, and {problem}; for tests, `Worker::without_isolation` runs it like any other task",
        task.name
    )))
}
