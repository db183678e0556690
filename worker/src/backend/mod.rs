//! Where results go: a worker stores what became of a task, and its caller asks.
//!
//! `memory` is for tests, `sqlite` a table beside the queue, `amqp` Celery's `rpc://`: a message to the
//! caller's own queue, `redis` a store that machines and Celery
//! share, `postgres` a table that machines share.

#[cfg(feature = "amqp")]
mod amqp;
#[cfg(feature = "amqp")]
mod answers;
#[cfg(any(feature = "amqp", feature = "postgres", feature = "redis"))]
mod gathering;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod hub;
#[cfg(feature = "amqp")]
mod inbox;
#[cfg(any(feature = "postgres", feature = "redis"))]
mod listening;
mod memory;
mod none;
#[cfg(feature = "postgres")]
mod postgres;
pub mod record;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use record::{Awaited, Mark, ResultRecord};

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, Result};

/// A place for results. Object-safe.
pub trait ResultBackend: Send + Sync + 'static {
    /// The caller is about to send the task `id` and wants its result: returns the queue to name as `reply_to`,
    /// where results travel as messages.
    fn expect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>>>;

    /// A caller that [expected](Self::expect) `id` does not wait for it any more.
    fn release(&self, id: &str);

    /// Stores what became of a task. `Ok` means that it is durable, as far as the backend can be.
    /// `reply_to` is what the message said. A final state is never overwritten.
    fn store<'a>(&'a self, record: &'a ResultRecord, reply_to: Option<&'a str>) -> BoxFuture<'a, Result<()>>;

    /// What is known about a task now.
    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>>;

    /// Waits for a record of a task; the caller sets the time-out. Of several records in quick succession the last one is
    /// enough. A wait costs memory, and nothing is asked again and again for it.
    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>>;

    /// Deletes what is known about a task.
    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Since when it can neither store nor fetch, and why, where waiting cannot mend it and a restart may.
    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        None
    }

    /// Says goodbye.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// What a result backend is opened with, beside its address.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// What a connection to the same server would be opened with.
    pub connect: ConnectOptions,
    /// How long results are kept.
    pub expires: Duration,
}

/// Opens a result backend: the one that `url` names, or else the one that goes with the broker.
///
/// # Errors
/// A scheme that no backend has, a URL with a mistake, or a file that cannot be opened.
pub async fn open(
    broker: &BrokerUrl,
    url: Option<&BrokerUrl>,
    options: &BackendOptions,
) -> Result<Arc<dyn ResultBackend>> {
    let url = url.unwrap_or(broker);
    url.check()?;
    match url.scheme().as_str() {
        "memory" => Ok(memory::open(url, options.expires)),
        "none" => Ok(Arc::new(none::NoBackend)),
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::SqliteBackend::open(broker, url, options).await,
        #[cfg(feature = "amqp")]
        "rpc" | "amqp" | "amqps" => Ok(Arc::new(amqp::RpcBackend::open(broker, url, options)?)),
        #[cfg(feature = "postgres")]
        "postgres" | "postgresql" => Ok(Arc::new(postgres::PostgresBackend::open(url, options)?)),
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "sentinel" | "sentinels" => {
            Ok(Arc::new(redis::RedisBackend::open(url, options)?))
        }
        other => Err(Error::config(format!(
            "no result backend for `{url}`: the scheme `{other}` is not one of rpc, redis, sentinel, postgres, sqlite, memory, none, or this \
             build was made without the feature of that name"
        ))),
    }
}
