//! A task queue in the manner of Celery: a function becomes a task with one attribute, `.delay(..)` puts a call
//! on a queue, and `mq-worker` runs it, on RabbitMQ or on an embedded SQLite file.
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
//!     let job = send_email.delay(address).await?; // returns once the broker has it safely
//!     job.get().await?;                           // waits until it ran; typed, here ()
//!     Ok(())
//! }
//! # fn main() {}
//! ```
//!
//! The modules are listed in the order in which a reader needs them; each one uses only those before it.
//! `docs/architecture.md` shows the two flows, from `.delay()` to the broker and from the broker to the outcome.

// The net under code that is not ours.
mod panics;
mod tracing;

// What can go wrong, and where a task stands.
mod error;
mod show;
pub use error::{Error, Result, TaskFailure};

mod state;
pub use state::State;

// A message as it lies on a queue: Celery's protocol.
pub mod message;

// Tasks: what the attribute writes, what a task may ask and return.
pub mod task;
pub use message::Attempt;
pub use task::error::Permanence;
pub use task::{AckMode, Backoff, Context, FailedTask, SharedState, Task, TaskError, TaskOptions};

// Where messages go: exchanges, queues, bindings, and the router.
pub mod routing;
pub use routing::matching::topic_matches;
pub use routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, RouteRule, Topic, Topology};

// Calls as values.
pub mod canvas;
pub use canvas::{SendOptions, Signature};

// Connections, and the two things that are built on them: brokers and result backends.
pub mod connection;
pub use connection::{BrokerUrl, ConnectOptions, TlsOptions};
pub mod backend;
pub mod broker;

// Remote control: asking workers how they are, and telling them what to do.
pub mod control;

// Code of the program's own around every call.
pub mod middleware;

// The application: configuration, sending, results.
pub mod app;
pub use app::{App, AsyncResult, Config, Emitted, Payload, Rpc};

// The worker.
pub mod runtime;
pub use runtime::{Summary, Worker, WorkerHandle, run_isolated};

// The command.
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
pub use cli::main;

pub use mq_worker_macros::{on_failure, setup, task};

/// What the code that `#[task]` writes may name. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::app::{App, AsyncResult};
    pub use crate::canvas::Signature;
    pub use crate::error::{Error, Result};
    pub use crate::message::{ArgumentError, Arguments, NoArgs};
    pub use crate::middleware::{MiddlewareEntry, erase as erase_middleware};
    pub use crate::routing::Topic;
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

    /// Writes what a task returned. The bound is on the task, so that a type that does not fit is told of once.
    pub fn write_output_of<T: Task>(output: &T::Output) -> std::result::Result<Vec<u8>, TaskError> {
        crate::task::registry::write_output(output)
    }

    /// `Result<T, E>` under whatever alias a task names it.
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
    /// Asks whether a type is a `Result`: the inherent constant comes before the trait's.
    #[derive(Debug)]
    pub struct Returned<T>(std::marker::PhantomData<T>);

    impl<T, E> Returned<std::result::Result<T, E>> {
        pub const IS_RESULT: bool = true;
    }

    /// What [`Returned`] answers for every other type.
    pub trait NotResult {
        const IS_RESULT: bool = false;
    }

    impl<T> NotResult for Returned<T> {}
}

/// What `fuzz/` runs with random input, and the tests with a small corpus.
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
    #[doc = include_str!("../../docs/guide/promises.md")]
    struct Promises;
    #[doc = include_str!("../../docs/guide/failures.md")]
    struct Failures;
    #[doc = include_str!("../../docs/guide/middleware.md")]
    struct Middleware;
    #[doc = include_str!("../../docs/guide/limits.md")]
    struct Limits;
}
