//! A connection to Redis or a compatible server: opened by the first command, reconnects by itself.

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
    /// The URL without its password, for error messages.
    shown: Arc<str>,
    timeout: Duration,
}

impl Redis {
    /// Creates a handle for the server that a URL names. Nothing is sent yet.
    ///
    /// # Errors
    /// An invalid URL, or a TLS file that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let (server, key_prefix) = address::read(url, &options.tls)?;
        let link = Link::new(server, options.timeout);
        Ok(Self { link, key_prefix, shown: url.to_string().into(), timeout: options.timeout })
    }

    /// Runs `run` with the connection. `what` completes the error message "cannot …".
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        run: impl FnOnce(MultiplexedConnection) -> BoxFuture<'static, RedisResult<T>> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        // The connection lives on the library's own thread, so it survives the caller's runtime.
        let asked = async move { this.link.run(run).await };
        match background::spawn(asked)?.await {
            Ok(done) => done.map_err(|error| describe(&self.shown, what, error)),
            Err(ended) => Err(Error::connection(format!("cannot {what}: interrupted")).with_source(ended)),
        }
    }

    /// Opens a second connection, for publish/subscribe. Must be awaited on the library's own thread.
    pub(crate) async fn listen(&self) -> Result<PubSub> {
        let what = "listen for results";
        match tokio::time::timeout(self.timeout, self.link.listen()).await {
            Ok(opened) => opened.map_err(|error| describe(&self.shown, what, error)),
            Err(_) => Err(Error::timeout(format!("cannot {what}: no answer from {}", self.shown))),
        }
    }

    /// The prefix of all keys.
    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    /// The timeout for replies.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}
