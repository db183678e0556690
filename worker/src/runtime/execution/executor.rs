//! Runs one call: on the async runtime, a blocking thread or in a process of its own, within its time limits, catching panics.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::call::{AsyncCall, Returned, blocking, ended, joined, span_of};
use super::ended::Ended;
use super::slots::Slots;
use crate::middleware::{Chain, RunEnd};
use crate::panics::{Guarded, caught};
use crate::runtime::admission::limits::Limits;
use crate::task::{Context, TaskError, Work};
use crate::traces::Step;
use crate::tracing::Span;

/// Runs a call to its end, its time limit, or `interrupted`, whichever comes first. The permit is its slot, which is free
/// again only when the work has really ended.
///
/// Dropping the future stops the call as far as that is possible: an async task at its next await, an isolated one at
/// once, a plain function not at all.
#[expect(clippy::too_many_arguments, reason = "called once, by the pipe")]
pub(crate) async fn run(
    work: Work,
    context: &Context,
    layers: &Chain,
    limits: Limits,
    step: Step,
    permit: OwnedSemaphorePermit,
    slots: &Arc<Slots>,
    interrupted: &CancellationToken,
) -> Ended {
    // Each line that is logged inside, by the task or by middleware, carries the name and the id.
    let span = span_of(context);
    let call = match work {
        Work::Blocking(call) => call,
        Work::Async(future) => {
            // Held until the future is dropped.
            let _permit = permit;
            let mut call = AsyncCall::new(context.clone(), future);
            let run = span.around(step.around(layered(layers, context, (&mut call).map(ended))));
            let ended = bounded(run, limits, context, interrupted).await;
            return span.enter(|| step.enter(|| call.stop(ended)));
        }
        Work::Isolated { memory_limit } => {
            let _permit = permit;
            // Boxed, because tasks of this process pay for the size of this future too.
            let run =
                Box::pin(span.around(step.around(layered(layers, context, apart(context, memory_limit)))));
            return bounded(run, limits, context, interrupted).await;
        }
    };
    Box::pin(on_thread(call, context, layers, limits, (span, step), permit, slots, interrupted)).await
}

/// Runs a plain function on a thread.
#[expect(clippy::too_many_arguments, reason = "called once, by `run`")]
async fn on_thread(
    call: impl FnOnce() -> Returned + Send + 'static,
    context: &Context,
    layers: &Chain,
    limits: Limits,
    (span, step): (Span, Step),
    permit: OwnedSemaphorePermit,
    slots: &Arc<Slots>,
    interrupted: &CancellationToken,
) -> Ended {
    let call = Guarded::new(call);
    let span = Arc::new(span);
    let (inside, within) = (Arc::clone(&span), step.clone());
    let thread = caught(|| {
        tokio::task::spawn_blocking(move || {
            let done = inside.enter(|| within.enter(|| blocking(call)));
            drop((inside, within));
            drop(permit);
            done
        })
    });
    let mut thread = match thread {
        Ok(thread) => thread,
        Err(problem) => return Ended::NotStarted(problem),
    };
    let run = span.around(step.around(layered(layers, context, (&mut thread).map(joined))));
    let ended = bounded(run, limits, context, interrupted).await;
    if let Ended::TimedOut(_) | Ended::Terminated = &ended {
        slots.write_off(context, thread);
    }
    ended
}

/// Runs a call inside the middleware.
async fn layered(layers: &Chain, context: &Context, run: impl Future<Output = Ended> + Send) -> Ended {
    if layers.is_empty() {
        return run.await;
    }
    let seen = run.map(|ended| {
        let end = match &ended {
            Ended::Returned(_) => RunEnd::Returned,
            Ended::Erred(error) => RunEnd::Erred(error.clone()),
            Ended::Panicked(panic) => {
                RunEnd::Erred(TaskError::failed(format!("the task panicked: {}", panic.text)))
            }
            _ => RunEnd::Erred(TaskError::failed("the task was stopped")),
        };
        (ended, end)
    });
    match Box::pin(layers.around(context, seen)).await {
        // Middleware can replace only what the task itself returned.
        (None | Some(Ended::Returned(_) | Ended::Erred(_)), Some(error)) => Ended::Erred(error),
        (Some(ended), _) => ended,
        (None, None) => {
            Ended::Erred(TaskError::reject("a middleware neither ran the task nor returned an error"))
        }
    }
}

/// Runs a call in a process of its own.
async fn apart(context: &Context, memory_limit: Option<u64>) -> Ended {
    #[cfg(unix)]
    return super::isolate::run(context.clone(), memory_limit).await;
    #[cfg(not(unix))]
    unreachable!("a worker with isolated tasks does not start here: {context:?}, {memory_limit:?}");
}

async fn bounded(
    run: impl Future<Output = Ended>,
    limits: Limits,
    context: &Context,
    interrupted: &CancellationToken,
) -> Ended {
    // A task that gave up because of the cold shutdown had no chance to finish: that is no failure of its own.
    let run = run.map(|ended| match ended {
        Ended::Returned(_) => ended,
        _ if interrupted.is_cancelled() => Ended::Interrupted,
        // The same holds for one that gave up because it was revoked.
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
