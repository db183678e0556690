//! Runs the code of a task in this process, with panics caught.

use std::pin::Pin;
use std::task::Poll;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinError;

use super::ended::Ended;
use crate::panics::{Caught, Guarded, Panic, caught, text_of, traced};
use crate::task::{Context, TaskError, Work};
use crate::traces::Step;
use crate::tracing::Span;

/// The span of a run, for everything that is logged inside it.
pub(super) fn span_of(context: &Context) -> Span {
    Span::new(|| ::tracing::info_span!("call", task = context.task(), id = context.id()))
}

/// Runs a call to its end, as a part of a trace.
pub(crate) async fn execute(work: Work, context: &Context, step: Step) -> Ended {
    let span = span_of(context);
    match work {
        Work::Async(future) => {
            span.around(step.around(AsyncCall::new(context.clone(), future).map(ended))).await
        }
        Work::Blocking(call) => {
            let call = Guarded::new(call);
            tokio::task::spawn_blocking(move || span.enter(|| step.enter(|| blocking(call))))
                .map(joined)
                .await
        }
        Work::Isolated { .. } => unreachable!("a call in a process of its own is run there"),
    }
}

pub(super) type Returned = Result<Vec<u8>, TaskError>;

/// An async call. A panic counts as its own failure, whether it runs or is being dropped.
pub(super) struct AsyncCall {
    context: Context,
    future: Caught<BoxFuture<'static, Returned>>,
}

impl AsyncCall {
    pub(super) fn new(context: Context, future: BoxFuture<'static, Returned>) -> Self {
        Self { context, future: Caught::new(future) }
    }

    /// Drops the future, if it has not ended by itself.
    pub(super) fn stop(mut self, ended: Ended) -> Ended {
        let stopped = self.context.enter(|| self.future.stop());
        match (ended, stopped) {
            // Requeueing would hide the panic, as if the call had never run.
            (Ended::Interrupted, Err(panic)) => Ended::PanickedOnStop(panic),
            (ended, _) => ended,
        }
    }
}

impl Future for AsyncCall {
    type Output = Result<Returned, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        let Self { context, future } = &mut *self;
        context.enter(|| traced(|| Pin::new(future).poll(cx)))
    }
}

impl Drop for AsyncCall {
    fn drop(&mut self) {
        let _ = self.context.enter(|| self.future.stop());
    }
}

pub(super) fn blocking(call: Guarded<impl FnOnce() -> Returned>) -> Ended {
    ended(caught(|| traced(call.into_inner())))
}

/// The end of a call on a blocking thread, which never started if the runtime is shutting down.
pub(super) fn joined(thread: Result<Ended, JoinError>) -> Ended {
    thread.unwrap_or_else(|error| {
        if let Ok(panic) = error.try_into_panic() {
            text_of(panic);
        }
        Ended::Interrupted
    })
}

pub(super) fn ended(done: Result<Returned, String>) -> Ended {
    match done {
        Ok(Ok(json)) => Ended::Returned(json),
        Ok(Err(error)) => Ended::Erred(error),
        // This runs on the thread that caught the panic.
        Err(panic) => Ended::Panicked(Panic::just_caught(panic)),
    }
}
