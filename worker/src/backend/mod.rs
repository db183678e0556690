//! Result backends: a worker stores the result of a task, and its caller fetches it.
//!
//! `memory` is for tests, `sqlite` is a table in the broker's file or another, `amqp` is Celery's `rpc://`, a message to
//! the caller's own queue, `redis` is a store shared by machines and with Celery, and `postgres` is a table shared by
//! machines.

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

/// A store for results. Object-safe.
pub trait ResultBackend: Send + Sync + 'static {
    /// Announces that the caller is about to send the task `id` and wants its result. Returns the queue to name as
    /// `reply_to`, if results travel as messages.
    fn expect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>>>;

    /// Ends an [`expect`](Self::expect): the caller no longer waits for `id`.
    fn release(&self, id: &str);

    /// Stores the result of a task. `Ok` means that it is as durable as the backend can make it.
    /// `reply_to` is that of the message. A final state is never overwritten.
    fn store<'a>(&'a self, record: &'a ResultRecord, reply_to: Option<&'a str>) -> BoxFuture<'a, Result<()>>;

    /// The current record of a task.
    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>>;

    /// Waits for a record of a task; the caller sets the timeout. Of several records in quick succession, only the last may
    /// be returned. A waiting caller takes memory, but causes no polling.
    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>>;

    /// Deletes the result of a task.
    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Since when and why it can neither store nor fetch, if waiting cannot fix it but a restart may.
    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        None
    }

    /// Closes this handle: pending waits end with an error.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The settings of a result backend other than its address.
#[derive(Clone, Debug)]
pub struct BackendOptions {
    /// The settings of its connection.
    pub connect: ConnectOptions,
    /// How long results are kept.
    pub expires: Duration,
}

/// Opens the result backend that `url` names, or by default the one that belongs to the broker.
///
/// # Errors
/// An unknown scheme, an invalid URL, or a file that cannot be opened.
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
