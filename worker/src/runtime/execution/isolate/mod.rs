//! Tasks in processes of their own: `#[task(isolate)]`.
//!
//! For each such run the worker starts its own program once more (`process`). The new process finds in its
//! environment that it is one, takes the call from its parent, runs it, answers and ends (`child`). What the two say
//! to each other goes over a socket that takes the place of the child's standard input (`wire`); when either side is
//! gone, the other one sees it at once. So a run can be killed, and a run may crash, and the worker lives; and when the
//! worker is killed, nothing goes on working on a message that is handed out again.

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

/// True when this program knows how to run one task in a process of its own.
static READY: AtomicBool = AtomicBool::new(false);

/// Lets this program run `#[task(isolate)]` tasks, each in a process of its own.
///
/// [`mq_worker::main`](crate::main) calls it. A program that runs a [`Worker`](crate::Worker) in a `main` of its own
/// calls it there: as early as it can, but after it has installed an [`App`](crate::App) that its tasks use. It does
/// nothing but take notice, except in the process that a worker starts for an isolated task: there it runs that task,
/// after the `#[setup]` functions, and never returns.
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
        child::become_task();
    }
}

/// True when the system lacks something for the moment: file handles, processes, memory.
#[cfg(unix)]
fn is_scarcity(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let scarce = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM, Errno::NOBUFS, Errno::NOSPC];
    Errno::from_io_error(error).is_some_and(|error| scarce.contains(&error))
}

/// True when this program can be started once more to run one task.
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
