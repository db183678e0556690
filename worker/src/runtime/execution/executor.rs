//! Runs one call: on the async runtime, a blocking thread or in a process of its own, within its time limits, catching panics.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::slots::Places;
use crate::message::Headers;
use crate::middleware::{Chain, RunEnd};
use crate::panics::{Caught, Guarded, caught, text_of};
use crate::runtime::settlement::outcome::Ended;
use crate::task::{Context, TaskEntry, TaskError, TaskOptions, Work};

/// How long a call may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Then it is stopped and has failed.
    pub(crate) hard: Option<Duration>,
    /// Then its cancellation token fires.
    pub(crate) soft: Option<Duration>,
}

impl Limits {
    /// Those of a message, else those of its task.
    pub(crate) fn of(task: Option<&TaskEntry>, headers: &Headers) -> Self {
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
pub(crate) async fn run(
    work: Work,
    context: &Context,
    layers: &Chain,
    limits: Limits,
    permit: OwnedSemaphorePermit,
    places: &Arc<Places>,
    interrupted: &CancellationToken,
) -> Ended {
    let call = match work {
        Work::Blocking(call) => call,
        Work::Async(future) => {
            // Held until the future is gone.
            let _permit = permit;
            let mut call = AsyncCall::new(context.clone(), future);
            let run = layered(layers, context, (&mut call).map(ended));
            let ended = bounded(run, limits, context, interrupted).await;
            return call.stop(ended);
        }
        Work::Isolated { memory_limit } => {
            let _permit = permit;
            let run = layered(layers, context, apart(context, memory_limit));
            return bounded(run, limits, context, interrupted).await;
        }
    };
    let call = Guarded::new(call);
    let thread = caught(|| {
        tokio::task::spawn_blocking(move || {
            let done = blocking(call);
            drop(permit);
            done
        })
    });
    let mut thread = match thread {
        Ok(thread) => thread,
        Err(problem) => return Ended::NotStarted(problem),
    };
    let run = layered(layers, context, (&mut thread).map(joined));
    let ended = bounded(run, limits, context, interrupted).await;
    if let Ended::TimedOut(_) | Ended::Terminated = &ended {
        places.write_off(context, thread);
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
            Ended::Panicked(text) => RunEnd::Erred(TaskError::failed(format!("the task panicked: {text}"))),
            _ => RunEnd::Erred(TaskError::failed("the task was stopped")),
        };
        (ended, end)
    });
    match layers.around(context, seen).await {
        // Only what the task itself said can be replaced.
        (None | Some(Ended::Returned(_) | Ended::Erred(_)), Some(error)) => Ended::Erred(error),
        (Some(ended), _) => ended,
        (None, None) => {
            Ended::Erred(TaskError::reject("a middleware neither ran the task nor returned an error"))
        }
    }
}

/// Runs a call to its end.
pub(crate) async fn execute(work: Work, context: &Context) -> Ended {
    match work {
        Work::Async(future) => AsyncCall::new(context.clone(), future).map(ended).await,
        Work::Blocking(call) => {
            let call = Guarded::new(call);
            tokio::task::spawn_blocking(move || blocking(call)).map(joined).await
        }
        Work::Isolated { memory_limit } => apart(context, memory_limit).await,
    }
}

/// Runs a call in a process of its own.
async fn apart(context: &Context, memory_limit: Option<u64>) -> Ended {
    #[cfg(unix)]
    return super::isolate::run(context.clone(), memory_limit).await;
    #[cfg(not(unix))]
    unreachable!("a worker with isolated tasks does not start here: {context:?}, {memory_limit:?}");
}

type Returned = Result<Vec<u8>, TaskError>;

/// An async call. Whatever panics in it, as it runs or as it is dropped, is its own failure.
struct AsyncCall {
    context: Context,
    future: Caught<BoxFuture<'static, Returned>>,
}

impl AsyncCall {
    fn new(context: Context, future: BoxFuture<'static, Returned>) -> Self {
        Self { context, future: Caught::new(future) }
    }

    /// Drops the future, if it has not ended by itself.
    fn stop(mut self, ended: Ended) -> Ended {
        let stopped = self.context.enter(|| self.future.stop());
        match (ended, stopped) {
            // Handed back, it would be as if it had never run.
            (Ended::Interrupted, Err(panic)) => Ended::Broke(panic),
            (ended, _) => ended,
        }
    }
}

impl Future for AsyncCall {
    type Output = Result<Returned, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let Self { context, future } = &mut *self;
        context.enter(|| Pin::new(future).poll(cx))
    }
}

impl Drop for AsyncCall {
    fn drop(&mut self) {
        let _ = self.context.enter(|| self.future.stop());
    }
}

fn blocking(call: Guarded<impl FnOnce() -> Returned>) -> Ended {
    ended(caught(call.into_inner()))
}

/// A thread that never began, as the runtime ends.
fn joined(thread: Result<Ended, JoinError>) -> Ended {
    thread.unwrap_or_else(|error| {
        if let Ok(panic) = error.try_into_panic() {
            text_of(panic);
        }
        Ended::Interrupted
    })
}

fn ended(done: Result<Returned, String>) -> Ended {
    match done {
        Ok(Ok(json)) => Ended::Returned(json),
        Ok(Err(error)) => Ended::Erred(error),
        Err(panic) => Ended::Panicked(panic),
    }
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
