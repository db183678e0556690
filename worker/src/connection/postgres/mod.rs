//! Connections to PostgreSQL: a pool, and one for `LISTEN`.

mod failure;
mod schema;
mod tls;

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Timeouts};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream;
use tokio::sync::{OnceCell, mpsc};
use tokio_postgres::{AsyncMessage, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::failure::describe;
use super::{BrokerUrl, ConnectOptions, background};
use crate::error::{Error, Result};
use crate::tracing;

/// The maximum size of the pool.
const CONNECTIONS: usize = 8;

/// A database, and the connections to it.
pub(crate) struct Postgres {
    config: Config,
    tls: MakeRustlsConnect,
    pool: Pool,
    /// Set once the tables exist.
    ready: OnceCell<()>,
    /// The URL without its password, for error messages.
    shown: Arc<str>,
    timeout: Duration,
}

impl Postgres {
    /// Creates a handle for the database that a URL names. Nothing is sent yet.
    ///
    /// # Errors
    /// An invalid URL, or a TLS file that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let shown: Arc<str> = url.to_string().into();
        let mistake = |problem: &str| {
            Error::config(format!(
                "`{shown}` is not the address of a PostgreSQL database: expected \
                 postgres://USER:PASSWORD@HOST:PORT/DATABASE ({problem})"
            ))
        };
        // These error messages may quote options and their values, but never the password.
        let mut config = Config::from_str(url.expose()).map_err(|error| mistake(&error.to_string()))?;
        if config.get_hosts().is_empty() {
            return Err(mistake("there is no host"));
        }
        if config.get_application_name().is_none() {
            config.application_name(&options.name);
        }
        config.connect_timeout(options.timeout);
        let tls = MakeRustlsConnect::new(tls::client(&options.tls)?);
        let manager = Manager::from_config(
            config.clone(),
            tls.clone(),
            // A query to check that a connection is alive would cost as much as the actual one.
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let limit = Some(options.timeout);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(deadpool_postgres::Runtime::Tokio1)
            .timeouts(Timeouts { wait: limit, create: limit, recycle: limit })
            .build()
            .map_err(|error| Error::config(format!("cannot make a pool of connections: {error}")))?;
        Ok(Self { config, tls, pool, ready: OnceCell::new(), shown, timeout: options.timeout })
    }

    /// Runs `run` with a connection of the pool, once the tables exist. `what` completes the error message "cannot …".
    pub(crate) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        run: impl FnOnce(Object) -> BoxFuture<'static, Result<T, tokio_postgres::Error>> + Send + 'static,
    ) -> Result<T> {
        let this = Arc::clone(self);
        let asked = async move {
            let connection = this.connection(what).await?;
            match tokio::time::timeout(this.timeout, run(connection)).await {
                Ok(done) => done.map_err(|error| describe(&this.shown, what, error)),
                Err(_) => Err(this.silent(what)),
            }
        };
        // The connections live on the library's own thread, so they survive the caller's runtime.
        match background::spawn(asked)?.await {
            Ok(done) => done,
            Err(ended) => Err(Error::connection(format!("cannot {what}: interrupted")).with_source(ended)),
        }
    }

    async fn connection(&self, what: &str) -> Result<Object> {
        let connection = self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => describe(&self.shown, what, error),
            PoolError::Timeout(_) => self.silent(what),
            other => Error::connection(format!("cannot {what}: {}: {other}", self.shown)),
        })?;
        self.ready.get_or_try_init(|| schema::prepare(&connection, &self.shown)).await?;
        Ok(connection)
    }

    fn silent(&self, what: &str) -> Error {
        Error::timeout(format!("cannot {what}: no answer from {}", self.shown))
    }

    /// Opens a connection that listens on a channel; the receiver yields the payloads of notifications until the connection
    /// is lost. Must be awaited on the library's own thread.
    pub(crate) async fn listen(&self, channel: &str) -> Result<(Client, mpsc::UnboundedReceiver<String>)> {
        let what = "listen for results";
        let opened = tokio::time::timeout(self.timeout, self.config.connect(self.tls.clone())).await;
        let (client, mut connection) =
            opened.map_err(|_| self.silent(what))?.map_err(|error| describe(&self.shown, what, error))?;
        // Unbounded: the reader is fast, it only checks whether a caller waits for the result.
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
            while let Some(message) = messages.next().await {
                match message {
                    Ok(AsyncMessage::Notification(notification)) => {
                        if sender.send(notification.payload().to_owned()).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => return tracing::debug!(%error, "lost the listening connection"),
                }
            }
        });
        let command = format!("LISTEN {channel}");
        let listen = client.batch_execute(&command);
        let listening = tokio::time::timeout(self.timeout, listen).await.map_err(|_| self.silent(what))?;
        listening.map_err(|error| describe(&self.shown, what, error))?;
        Ok((client, receiver))
    }

    /// The URL without its password, for error messages.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// The timeout for replies.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}
