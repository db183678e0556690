//! Runs one call: on the async runtime or a blocking thread, within its time limits, catching panics.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::outcome::Ended;
use crate::task::{Context, TaskError, Work};

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Then it is stopped and has failed.
    pub hard: Option<Duration>,
    /// Then its cancellation token fires.
    pub soft: Option<Duration>,
}

/// Runs a call to its end, its time limit, or `interrupted`, whichever comes first. The permit is the place
/// among the running tasks; it is free again when the work has truly ended.
pub async fn run(
    work: Work,
    context: &Context,
    limits: Limits,
    permit: OwnedSemaphorePermit,
    interrupted: &CancellationToken,
) -> Ended {
    match work {
        Work::Async(future) => {
            let run = AssertUnwindSafe(context.clone().scope(future)).catch_unwind().map(ended);
            let ended = bounded(run, limits, context, interrupted).await;
            drop(permit);
            ended
        }
        Work::Blocking(call) => {
            let thread = tokio::task::spawn_blocking(move || {
                let done = ended(catch_unwind(AssertUnwindSafe(call)));
                drop(permit);
                done
            });
            let run = thread.map(|joined| joined.unwrap_or(Ended::Interrupted));
            let ended = bounded(run, limits, context, interrupted).await;
            if let Ended::TimedOut(limit) = &ended {
                tracing::warn!(
                    task = context.task(),
                    id = context.id(),
                    ?limit,
                    "time limit passed, but a plain function cannot be stopped: its thread and its place among the \
                     running tasks stay taken until it returns"
                );
            }
            ended
        }
    }
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
        _ => ended,
    });
    tokio::pin!(run);
    // Most calls have no limit: they should not pay for timers.
    if limits == Limits::default() {
        return tokio::select! {
            biased;
            ended = &mut run => ended,
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
