//! A task queue modelled on Celery: one attribute turns a function into a task, `.delay(..)` queues a call, and
//! `mq-worker` runs it, on RabbitMQ or on an embedded SQLite file.
//!
//! ```
//! use mq_worker::task;
//!
//! /// Sends the welcome e-mail.
//! #[task(queue = "email", max_retries = 5)]
//! pub async fn send_email(address: String) -> Result<(), std::io::Error> {
//!     println!("welcome, {address}");
//!     Ok(())
//! }
//!
//! async fn sign_up(address: &str) -> mq_worker::Result<()> {
//!     let job = send_email.delay(address).await?; // returns once it is safely queued
//!     job.get().await?;                           // waits for the result; typed, here ()
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! The modules are listed in reading order; each one uses only those before it.
//! `docs/architecture.md` shows the two flows, from `.delay()` to the broker and from the broker to the outcome.

// Catching panics of user code.
mod panics;
mod tracing;

// Errors, and the state of a task.
mod error;
mod show;
pub use error::{Error, Language, Result, TaskFailure};

mod state;
pub use state::State;

// A message as it is stored in a queue: Celery's protocol.
pub mod message;

// Tasks: the code that the attribute generates, a task's context, and what it may return.
pub mod task;
pub use message::{Attempt, Progress, ResultTypes};
pub use task::error::Permanence;
pub use task::{AckMode, Backoff, Context, FailedTask, SharedState, Task, TaskError, TaskOptions};

// Where messages go: exchanges, queues, bindings, and the router.
pub mod routing;
pub use routing::matching::topic_matches;
pub use routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, RouteRule, Topic, Topology};

// When calls are due.
mod schedule;
pub use schedule::{CatchUp, Overlap, Schedule, Timing};

// Calls as values.
pub mod canvas;
pub use canvas::{SendOptions, Signature};

// Connections, and what is built on them: brokers and result backends.
pub mod connection;
pub use connection::{BrokerUrl, ConnectOptions, TlsOptions};
pub mod backend;
pub mod broker;

// Events: what workers and producers report while they work.
pub mod events;

// Remote control: querying and controlling running workers.
pub mod control;

// Middleware: user code around every call.
pub mod middleware;
#[cfg(feature = "otel")]
pub mod traces;
#[cfg(not(feature = "otel"))]
mod traces;

// The application: configuration, sending, results.
pub mod app;
pub use app::{App, AsyncResult, Config, Emitted, JobInfo, Payload, Prefetch, ResultSet, Rpc, Updates};

// The history of calls, in a file of its own.
#[cfg(feature = "dashboard")]
pub mod history;

// The worker.
pub mod runtime;
pub use runtime::{Summary, Worker, WorkerHandle, run_isolated};

// Operator actions, shared by the command and the management page.
#[cfg(feature = "cli")]
mod admin;

// The management page.
#[cfg(feature = "dashboard")]
pub mod dashboard;
#[cfg(feature = "dashboard")]
pub use dashboard::Dashboard;
// The scheduler.
mod beat;
pub use beat::{Beat, BeatHandle};

// The command.
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub use cli::main;

/// Calls a function in the worker after a message was dead-lettered.
///
/// ```
/// use mq_worker::{FailedTask, on_failure};
///
/// #[on_failure]
/// async fn alert(failed: &FailedTask) {
///     eprintln!("{} {}: {} ({})", failed.task(), failed.id(), failed.failure(), failed.reason());
/// }
/// ```
pub use mq_worker_macros::on_failure;

/// Runs a function in each worker before it takes its first message, to prepare the shared state.
///
/// ```
/// use mq_worker::{Context, SharedState, setup, task};
///
/// struct Greeting(String);
///
/// #[setup]
/// async fn prepare(state: &mut SharedState) -> Result<(), std::env::VarError> {
///     // Open the database connection pool, the HTTP client, …
///     state.insert(Greeting(std::env::var("GREETING")?));
///     Ok(())
/// }
///
/// #[task]
/// async fn greet(ctx: &Context, name: String) -> String {
///     format!("{}, {name}!", ctx.state::<Greeting>().0)
/// }
/// ```
pub use mq_worker_macros::setup;

/// Turns a function into a task: a call can be queued now and run later by a worker.
///
/// ```no_run
/// use std::time::Duration;
///
/// use mq_worker::{TaskError, task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct User {
///     name: String,
///     email: String,
/// }
///
/// /// Sends the welcome e-mail.
/// #[task(queue = "email", max_retries = 5)]
/// async fn send_email(user: User, subject: String) -> Result<(), TaskError> {
///     println!("{subject}, {}!", user.name);
///     Ok(())
/// }
///
/// # async fn demo(user: User) -> Result<(), Box<dyn std::error::Error>> {
/// // Queue a call: returns once the broker has stored it safely.
/// let job = send_email.delay(user.clone(), "Welcome").await?;
/// // Queue a call with options.
/// send_email.with(user.clone(), "How do you like it?").countdown(Duration::from_secs(60)).send().await?;
/// // Queue many calls at once: an item is the tuple of arguments.
/// send_email.delay_many([(user.clone(), "One".into()), (user.clone(), "Two".into())]).await?;
/// // Wait for the result.
/// job.get().await?;
/// // It is still an ordinary function.
/// send_email(user, "Now".to_owned()).await.map_err(|error| error.to_string())?;
/// # Ok(())
/// # }
/// ```
pub use mq_worker_macros::task;

/// The items that code generated by `#[task]` uses. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::app::{App, AsyncResult, ResultSet};
    pub use crate::canvas::Signature;
    pub use crate::error::{Error, Result};
    pub use crate::message::{ArgumentError, Arguments, NoArgs, ResultTypes};
    pub use crate::middleware::{MiddlewareEntry, erase as erase_middleware};
    pub use crate::routing::Topic;
    pub use crate::schedule::{CatchUp, Overlap};
    pub use crate::task::error::convert::{
        Caught, ViaDisplay, ViaError, ViaNothing, ViaPermanence, ViaTaskError,
    };
    pub use crate::task::failed::{FailedTask, FailureHookEntry};
    pub use crate::task::registry::{SetupEntry, write_output};
    pub use crate::task::{
        AckMode, Backoff, Context, SharedState, Task, TaskEntry, TaskError, TaskOptions, Work,
    };
    pub use futures_util::future::BoxFuture;
    pub use inventory;
    pub use std::time::Duration;

    /// Encodes the return value of a task. The bound is on the task, so that a type that does not fit is reported once.
    pub fn write_output_of<T: Task>(
        output: &T::Output,
        types: ResultTypes,
    ) -> std::result::Result<Vec<u8>, TaskError> {
        crate::task::registry::write_result(output, types)
    }

    /// How the return value of this call is written.
    pub fn result_types(context: &Context) -> ResultTypes {
        context.result_types()
    }

    /// `Result<T, E>`, also under an alias.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is not the standard library's `Result`",
        label = "named `Result`, but a different type",
        note = "a task whose return type is named `Result` must return `std::result::Result` or an alias of it"
    )]
    pub trait Fallible {
        type Value;
        type Failure;
        fn into_result(self) -> std::result::Result<Self::Value, Self::Failure>;
    }

    impl<T, E> Fallible for std::result::Result<T, E> {
        type Value = T;
        type Failure = E;
        fn into_result(self) -> Self {
            self
        }
    }
    /// Detects whether a type is a `Result`: the inherent constant takes precedence over the trait's.
    #[derive(Debug)]
    pub struct Returned<T>(std::marker::PhantomData<T>);

    impl<T, E> Returned<std::result::Result<T, E>> {
        pub const IS_RESULT: bool = true;
    }

    /// The value of [`Returned`] for every other type.
    pub trait NotResult {
        const IS_RESULT: bool = false;
    }

    impl<T> NotResult for Returned<T> {}
}

/// The fuzz targets: `fuzz/` runs them with random input, the tests with a small corpus.
#[cfg(all(any(test, fuzzing), feature = "amqp", feature = "sqlite"))]
#[doc(hidden)]
pub mod fuzzing;

/// The code in the README and the guides is compiled with the tests.
#[cfg(doctest)]
mod guides {
    #[doc = include_str!("../../README.md")]
    struct Readme;
    #[doc = include_str!("../../docs/guide/patterns.md")]
    struct Patterns;
    #[doc = include_str!("../../docs/guide/schedules.md")]
    struct Schedules;
    #[doc = include_str!("../../docs/guide/promises.md")]
    struct Promises;
    #[doc = include_str!("../../docs/guide/failures.md")]
    struct Failures;
    #[doc = include_str!("../../docs/guide/middleware.md")]
    struct Middleware;
    #[doc = include_str!("../../docs/guide/limits.md")]
    struct Limits;
    #[doc = include_str!("../../docs/guide/results.md")]
    struct Results;
    #[doc = include_str!("../../docs/guide/events.md")]
    struct Events;
}
