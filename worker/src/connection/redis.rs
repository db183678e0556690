//! A connection to Redis, or to a server that speaks like it: opened with the first command, restored by itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, PubSub};
use redis::{Client, ClientTlsConfig, RedisError, RedisResult, TlsCertificates};

use super::{BrokerUrl, ConnectOptions, TlsOptions, background};
use crate::error::{Error, ErrorKind, Result};

/// A server, and the connection to it.
pub(crate) struct Redis {
    client: Client,
    /// For errors.
    shown: Arc<str>,
    timeout: Duration,
    manager: ConnectionManager,
}

impl Redis {
    /// The server that a URL names. Nothing is sent yet.
    ///
    /// # Errors
    /// An address with a mistake, or a file for TLS that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let shown: Arc<str> = url.to_string().into();
        let mistake = |error: RedisError| {
            // The crate's own words may quote the address.
            let what = format!(
                "`{shown}` is not the address of a Redis server: expected redis://USER:PASSWORD@HOST:PORT/DB"
            );
            Error::config(format!("{what} ({})", error.category()))
        };
        let client = match certificates(&options.tls)? {
            Some(certificates) if url.scheme() == "rediss" => {
                Client::build_with_tls(url.expose(), certificates).map_err(mistake)?
            }
            _ => Client::open(url.expose()).map_err(mistake)?,
        };
        // The callers try again: one attempt to connect is enough for each.
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(options.timeout))
            .set_response_timeout(Some(options.timeout));
        let manager = ConnectionManager::new_lazy_with_config(client.clone(), config).map_err(mistake)?;
        Ok(Self { client, shown, timeout: options.timeout, manager })
    }

    /// Does something with the connection. `what` completes "cannot …".
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        what: &str,
        run: impl FnOnce(ConnectionManager) -> BoxFuture<'static, RedisResult<T>>,
    ) -> Result<T> {
        // The connection lives on the library's own thread, whatever becomes of the caller's runtime.
        let done = background::spawn(run(self.manager.clone()))?.await;
        match done {
            Ok(done) => done.map_err(|error| self.error(what, error)),
            Err(ended) => Err(Error::connection(format!("cannot {what}: interrupted")).with_source(ended)),
        }
    }

    /// A second connection, which hears what is published. To be awaited on the library's own thread.
    pub(crate) async fn listen(&self) -> Result<PubSub> {
        let what = "listen for results";
        match tokio::time::timeout(self.timeout, self.client.get_async_pubsub()).await {
            Ok(opened) => opened.map_err(|error| self.error(what, error)),
            Err(_) => Err(Error::timeout(format!("cannot {what}: no answer from {}", self.shown))),
        }
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    fn error(&self, what: &str, error: RedisError) -> Error {
        let (kind, why) = meaning(&error);
        Error::new(kind, format!("cannot {what}: {} {why}", self.shown)).with_source(error)
    }
}

/// What an answer of the server means.
fn meaning(error: &RedisError) -> (ErrorKind, &'static str) {
    match error.code().unwrap_or_default() {
        "WRONGPASS" => (ErrorKind::LoginRefused, "refuses the user or the password"),
        "NOAUTH" => (ErrorKind::LoginRefused, "wants a password: redis://:PASSWORD@HOST"),
        "NOPERM" => (ErrorKind::AccessRefused, "does not permit this user the command"),
        "READONLY" => (ErrorKind::Storage, "is read-only: it is a replica; name the primary"),
        "OOM" => (ErrorKind::Storage, "has no memory left (`maxmemory`)"),
        "MISCONF" => (ErrorKind::Storage, "cannot write to its disk and takes no writes"),
        "LOADING" => (ErrorKind::Storage, "is loading its data"),
        "WRONGTYPE" => {
            (ErrorKind::Codec, "has something else under the key of the result: it is another program's")
        }
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => {
            (ErrorKind::LoginRefused, "refuses the user or the password")
        }
        _ if error.is_timeout() => (ErrorKind::Timeout, "does not answer in time"),
        _ if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() => {
            (ErrorKind::Connection, "cannot be reached")
        }
        _ => (ErrorKind::Storage, "answered with an error"),
    }
}

fn certificates(tls: &TlsOptions) -> Result<Option<TlsCertificates>> {
    if *tls == TlsOptions::default() {
        return Ok(None);
    }
    let read = |path: &Path| {
        fs::read(path)
            .map_err(|error| Error::config(format!("cannot read `{}`", path.display())).with_source(error))
    };
    let client_tls = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        (None, None) => None,
        _ => return Err(Error::config("[tls] has one of `cert_file` and `key_file`: they belong together")),
    };
    let root_cert = tls.ca_file.as_deref().map(read).transpose()?;
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}
