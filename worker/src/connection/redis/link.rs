//! The one connection that all commands share: opened by the first, replaced once it has failed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};

/// The server to connect to.
pub(super) enum Server {
    At(Client),
    /// Asked for the primary for each new connection.
    Sentinels(tokio::sync::Mutex<SentinelClient>),
}

impl Server {
    async fn client(&self, limit: Duration) -> RedisResult<Client> {
        let sentinels = match self {
            Self::At(client) => return Ok(client.clone()),
            Self::Sentinels(sentinels) => sentinels,
        };
        let begun = Instant::now();
        let mut sentinels = sentinels.lock().await;
        loop {
            match sentinels.async_get_client().await {
                // The redis crate waits half a second for a sentinel, which is short on a busy machine: try again.
                Err(error) if error.is_timeout() && begun.elapsed() < limit => {}
                found => return found,
            }
        }
    }
}

type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// The connection to a server.
pub(super) struct Link {
    server: Arc<Server>,
    config: AsyncConnectionConfig,
    timeout: Duration,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// The number of connections given up before this one.
    number: u64,
    /// Shared by all commands that wait while it is being opened.
    connection: Option<Connecting>,
}

impl Link {
    pub(super) fn new(server: Server, timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        Self { server: Arc::new(server), config, timeout, current: Mutex::default() }
    }

    /// Runs `run` with the connection, without retrying: that is up to the callers.
    pub(super) async fn run<T>(
        &self,
        run: impl FnOnce(MultiplexedConnection) -> BoxFuture<'static, RedisResult<T>>,
    ) -> RedisResult<T> {
        let (number, connecting) = self.current();
        let connection = connecting.await.inspect_err(|_| self.give_up(number))?;
        run(connection).await.inspect_err(|error| {
            if needs_reconnect(error) {
                self.give_up(number);
            }
        })
    }

    /// Opens a second connection, for publish/subscribe.
    pub(super) async fn listen(&self) -> RedisResult<PubSub> {
        self.server.client(self.timeout).await?.get_async_pubsub().await
    }

    fn current(&self) -> (u64, Connecting) {
        let mut current = self.lock();
        let connecting = current.connection.get_or_insert_with(|| {
            let (server, config, limit) = (Arc::clone(&self.server), self.config.clone(), self.timeout);
            let connect = async move {
                server.client(limit).await?.get_multiplexed_async_connection_with_config(&config).await
            };
            connect.boxed().shared()
        });
        let connecting = connecting.clone();
        (current.number, connecting)
    }

    /// Makes the next command open a new connection, unless another command has given up this one already.
    fn give_up(&self, number: u64) {
        let mut current = self.lock();
        if current.number == number {
            *current = Current { number: number + 1, connection: None };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // A panic elsewhere leaves both fields consistent.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if a new connection may help: this one is lost or silent, its server is no longer the primary, or the server now
/// requires a login.
fn needs_reconnect(error: &RedisError) -> bool {
    error.code().is_none_or(|code| matches!(code, "READONLY" | "MASTERDOWN" | "NOAUTH"))
}
