//! Middleware: the program's own code around every call, on the sending side and in the worker.
//!
//! Use it for timing, tracing, tenant headers, feature flags and vetoes. Celery calls this signals, Sidekiq middleware.

mod chain;
mod run;

pub use chain::{Chain, MiddlewareEntry, erase};
pub use run::{Erased, Next, Ran, RunEnd};

use std::time::Duration;

use crate::canvas::SendOptions;
use crate::error::{Error, TaskFailure};
use crate::task::{Context, TaskError};

/// Code that surrounds the calls of a program. Every method has a default that does nothing, so write only those you need.
///
/// ```
/// use std::time::Instant;
///
/// use mq_worker::middleware::{Middleware, Next, Outgoing, Ran};
/// use mq_worker::{Context, TaskError};
///
/// struct Timing;
///
/// impl Middleware for Timing {
///     async fn before_publish(&self, call: &mut Outgoing<'_>) -> Result<(), TaskError> {
///         call.options.headers.push(("tenant".into(), "acme".into()));
///         Ok(())
///     }
///
///     async fn around(&self, context: &Context, next: Next<'_>) -> Result<Ran, TaskError> {
///         let begin = Instant::now();
///         let ran = next.run().await;
///         println!("{} took {:?}", context.task(), begin.elapsed());
///         ran
///     }
/// }
///
/// mq_worker::middleware!(Timing);
/// # fn main() {}
/// ```
///
/// Register it with [`middleware!`](crate::middleware!), which works in a library of tasks too, or with
/// [`AppBuilder::middleware`](crate::app::AppBuilder::middleware). Those of the builder come first, in the order in which
/// they were added, then the others by the path of their type. The first is the outermost: it sees a call first on the
/// way in and last on the way out.
///
/// The observers, [`after_publish`](Self::after_publish) and [`on_outcome`](Self::on_outcome), change nothing: a panic, or
/// taking longer than 30 seconds, is logged and has no effect on the call. A program without middleware pays nothing.
pub trait Middleware: Send + Sync + 'static {
    /// Called before a call is published. It may change the options of the call; an error refuses the call.
    ///
    /// # Errors
    /// The reason why the call must not be sent: the caller of `.delay()` gets it as
    /// [`is_rejected`](crate::Error::is_rejected), and nothing is published.
    fn before_publish(&self, call: &mut Outgoing<'_>) -> impl Future<Output = Result<(), TaskError>> + Send {
        let _ = call;
        async { Ok(()) }
    }

    /// Called after the broker has replied, with success or an error.
    fn after_publish(
        &self,
        call: &Outgoing<'_>,
        published: Result<(), &Error>,
    ) -> impl Future<Output = ()> + Send {
        let _ = (call, published);
        async {}
    }

    /// Called in the worker around each run. Return what [`Next::run`] returns, or an error instead.
    ///
    /// A time limit covers middleware and task together. For an isolated task this runs in the worker, not in the
    /// process of the task.
    ///
    /// # Errors
    /// An error counts as the task's own: [`TaskError::reject`] without calling `next` is a veto that dead-letters the
    /// message, [`TaskError::retry_in`] postpones it. An error of the task can be replaced but not turned into a success.
    fn around(
        &self,
        context: &Context,
        next: Next<'_>,
    ) -> impl Future<Output = Result<Ran, TaskError>> + Send {
        let _ = context;
        next.run()
    }

    /// Called in the worker when the outcome of a delivery is durable and the message is settled.
    fn on_outcome(&self, context: &Context, outcome: &TaskOutcome<'_>) -> impl Future<Output = ()> + Send {
        let _ = (context, outcome);
        async {}
    }
}

/// A call on its way to the broker.
#[derive(Debug)]
#[non_exhaustive]
pub struct Outgoing<'a> {
    /// The name of the task.
    pub task: &'a str,
    /// The options of the call, its id among them.
    pub options: &'a mut SendOptions,
}

/// The outcome of a delivery.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TaskOutcome<'a> {
    /// The outcome.
    pub kind: OutcomeKind<'a>,
    /// How long the run took; zero if the task did not run.
    pub elapsed: Duration,
}

/// The outcomes of a delivery.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum OutcomeKind<'a> {
    /// The task returned a value.
    Succeeded,
    /// It is published again and runs after this long.
    Retried {
        /// How long it waits.
        after: Duration,
        /// Why.
        failure: &'a TaskFailure,
    },
    /// It was dead-lettered.
    DeadLettered {
        /// As in the header `mq-dead-reason`.
        reason: &'static str,
        /// The last error.
        failure: &'a TaskFailure,
    },
    /// It was revoked or has expired, and did not run to its end.
    Revoked {
        /// `revoked`, `expired` or `terminated`.
        why: &'static str,
    },
    /// It had succeeded before and was not run again.
    Duplicate,
    /// It was requeued without spending an attempt.
    Requeued,
}

impl<'a> OutcomeKind<'a> {
    /// A short name for metrics and traces: `succeeded`, `retried`, `dead_lettered`, `revoked`, `duplicate` or `requeued`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Retried { .. } => "retried",
            Self::DeadLettered { .. } => "dead_lettered",
            Self::Revoked { .. } => "revoked",
            Self::Duplicate => "duplicate",
            Self::Requeued => "requeued",
        }
    }

    /// The error of a run that failed.
    pub fn failure(&self) -> Option<&'a TaskFailure> {
        match self {
            Self::Retried { failure, .. } | Self::DeadLettered { failure, .. } => Some(failure),
            _ => None,
        }
    }
}

/// Registers a [`Middleware`](crate::middleware::Middleware) for every program that links this crate.
///
/// It takes an expression that creates the middleware; see the trait for an example.
#[macro_export]
macro_rules! middleware {
    ($middleware:expr) => {
        const _: () = {
            $crate::__private::inventory::submit! {
                $crate::__private::MiddlewareEntry {
                    name: ::core::concat!(::core::module_path!(), "::", ::core::stringify!($middleware)),
                    make: || $crate::__private::erase_middleware($middleware),
                }
            }
        };
    };
}
