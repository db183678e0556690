//! Runs one call: on the async runtime, a blocking thread or in a process of its own, within its time limits, catching panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::outcome::Ended;
use super::places::Places;
use crate::message::Headers;
use crate::task::{Context, TaskEntry, TaskError, TaskOptions, Work};

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Then it is stopped and has failed.
    pub hard: Option<Duration>,
    /// Then its cancellation token fires.
    pub soft: Option<Duration>,
}

impl Limits {
    /// Those of a message, else those of its task.
    pub fn of(task: Option<&TaskEntry>, headers: &Headers) -> Self {
        let options = task.map_or(TaskOptions::DEFAULT, |task| task.options);
        let (hard, soft) = headers.time_limits();
        Self { hard: hard.or(options.time_limit), soft: soft.or(options.soft_time_limit) }
    }
}

/// Runs a call to its end, its time limit, or `interrupted`, whichever comes first. The permit is its place
/// among the running tasks; it is free again when the work has truly ended.
///
/// Dropping the future stops the call as far as that is possible: an async task at its next await, an isolated one at
/// once, a plain function not at all.
pub async fn run(
    work: Work,
    context: &Context,
    limits: Limits,
    permit: OwnedSemaphorePermit,
    places: &Arc<Places>,
    interrupted: &CancellationToken,
) -> Ended {
    let Work::Blocking(call) = work else {
        // Held until the future is gone.
        let _permit = permit;
        return bounded(execute(work, context), limits, context, interrupted).await;
    };
    let mut thread = tokio::task::spawn_blocking(move || {
        let done = caught(call);
        drop(permit);
        done
    });
    let ended = bounded((&mut thread).map(joined), limits, context, interrupted).await;
    if let Ended::TimedOut(_) | Ended::Terminated = &ended {
        places.write_off(context, thread);
    }
    ended
}

/// Runs a call to its end.
pub(super) async fn execute(work: Work, context: &Context) -> Ended {
    match work {
        Work::Async(future) => {
            AssertUnwindSafe(context.clone().scope(future)).catch_unwind().map(ended).await
        }
        Work::Blocking(call) => tokio::task::spawn_blocking(|| caught(call)).map(joined).await,
        #[cfg(unix)]
        Work::Isolated { memory_limit } => super::isolate::run(context.clone(), memory_limit).await,
        #[cfg(not(unix))]
        Work::Isolated { .. } => unreachable!("a worker with isolated tasks does not start here"),
    }
}

fn caught(call: impl FnOnce() -> Result<Vec<u8>, TaskError>) -> Ended {
    ended(catch_unwind(AssertUnwindSafe(call)))
}

/// A thread that never began, as the runtime ends.
fn joined(thread: Result<Ended, JoinError>) -> Ended {
    thread.unwrap_or(Ended::Interrupted)
}

fn ended(done: Result<Result<Vec<u8>, TaskError>, Box<dyn Any + Send>>) -> Ended {
    match done {
        Ok(Ok(json)) => Ended::Returned(json),
        Ok(Err(error)) => Ended::Erred(error),
        Err(panic) => Ended::Panicked(panic_text(&*panic)),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".into())
}

async fn bounded(
    run: impl Future<Output = Ended>,
    limits: Limits,
    context: &Context,
    interrupted: &CancellationToken,
) -> Ended {
    // A task that heard of the cold shutdown and gave up was not given its chance: that is no failure of its own.
    let run = run.map(|ended| match ended {
        Ended::Returned(_) => ended,
        _ if interrupted.is_cancelled() => Ended::Interrupted,
        // So it is with one that heard that nobody wants it any more.
        _ if context.is_revoked() => Ended::Terminated,
        _ => ended,
    });
    tokio::pin!(run);
    // Most calls have no limit: they should not pay for timers.
    if limits == Limits::default() {
        return tokio::select! {
            biased;
            ended = &mut run => ended,
            () = context.terminated() => Ended::Terminated,
            () = interrupted.cancelled() => Ended::Interrupted,
        };
    }
    let soft = expired(limits.soft);
    let hard = expired(limits.hard);
    tokio::pin!(soft, hard);
    loop {
        tokio::select! {
            biased;
            ended = &mut run => return ended,
            () = context.terminated() => return Ended::Terminated,
            () = interrupted.cancelled() => return Ended::Interrupted,
            () = &mut hard => {
                context.cancel();
                return Ended::TimedOut(limits.hard.unwrap_or_default());
            }
            () = &mut soft, if !context.is_cancelled() => context.cancel(),
        }
    }
}

/// Resolves after the limit; without one, never.
async fn expired(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
