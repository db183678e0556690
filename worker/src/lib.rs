#![doc = "mq-worker: a task queue in the manner of Celery."]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
pub use error::{Error, Result, TaskFailure};

mod state;
pub use state::State;

pub mod message;
pub mod task;
pub use task::error::Permanence;
pub use task::{AckMode, Backoff, Context, SharedState, Task, TaskError, TaskOptions};

pub mod routing;
pub use routing::matching::topic_matches;
pub use routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, RouteRule, Topology};

pub mod canvas;
pub use canvas::Signature;

pub mod backend;
pub mod broker;

mod connection;
pub use connection::{BrokerUrl, ConnectOptions, TlsOptions};

pub mod app;
pub use app::{App, AsyncResult, Config};

pub use mq_worker_macros::{setup, task};

/// What the code that `#[task]` writes may name. Not part of the public interface.
#[doc(hidden)]
pub mod __private {
    pub use crate::app::{App, AsyncResult};
    pub use crate::canvas::Signature;
    pub use crate::error::{Error, Result};
    pub use crate::message::{ArgumentError, Arguments, NoArgs};
    pub use crate::task::error::convert::{Caught, ViaDisplay, ViaError, ViaPermanence, ViaTaskError};
    pub use crate::task::registry::{SetupEntry, write_output};
    pub use crate::task::{
        AckMode, Backoff, Context, SharedState, Task, TaskEntry, TaskError, TaskOptions, Work,
    };
    pub use futures_util::future::BoxFuture;
    pub use inventory;
    pub use std::time::Duration;

    /// `Result<T, E>` under whatever alias a task names it.
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
}
