//! A connection to Redis, or to a server that speaks like it: opened with the first command, restored by itself.

mod address;
mod failure;
mod link;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::RedisResult;
use redis::aio::{MultiplexedConnection, PubSub};

use self::failure::describe;
use self::link::Link;
use super::{BrokerUrl, ConnectOptions, background};
use crate::error::{Error, Result};

/// A server, and the connection to it.
pub(crate) struct Redis {
    link: Link,
    key_prefix: String,
    /// For errors.
    shown: Arc<str>,
    timeout: Duration,
}

impl Redis {
    /// The server that a URL names. Nothing is sent yet.
    ///
    /// # Errors
    /// An address with a mistake, or a file for TLS that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let (server, key_prefix) = address::read(url, &options.tls)?;
        let link = Link::new(server, options.timeout);
        Ok(Self { link, key_prefix, shown: url.to_string().into(), timeout: options.timeout })
    }

    /// Does something with the connection. `what` completes "cannot …".
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        run: impl FnOnce(MultiplexedConnection) -> BoxFuture<'static, RedisResult<T>> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        // The connection lives on the library's own thread, whatever becomes of the caller's runtime.
        let asked = async move { this.link.run(run).await };
        match background::spawn(asked)?.await {
            Ok(done) => done.map_err(|error| describe(&self.shown, what, error)),
            Err(ended) => Err(Error::connection(format!("cannot {what}: interrupted")).with_source(ended)),
        }
    }

    /// A second connection, which receives what is published. To be awaited on the library's own thread.
    pub(crate) async fn listen(&self) -> Result<PubSub> {
        let what = "listen for results";
        match tokio::time::timeout(self.timeout, self.link.listen()).await {
            Ok(opened) => opened.map_err(|error| describe(&self.shown, what, error)),
            Err(_) => Err(Error::timeout(format!("cannot {what}: no answer from {}", self.shown))),
        }
    }

    /// What the keys of this program begin with.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}
