//! The one connection that all commands share: opened with the first, replaced as soon as it is of no more use.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::sentinel::SentinelClient;
use redis::{AsyncConnectionConfig, Client, RedisError, RedisResult};

/// What connections lead to.
pub(super) enum Server {
    At(Client),
    /// They are asked for the primary with each new connection.
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
                // The crate waits half a second for a sentinel, which is little on a busy machine.
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
    /// How many connections were given up before this one.
    number: u64,
    /// All that need it while it is being opened share what comes of that.
    connection: Option<Connecting>,
}

impl Link {
    pub(super) fn new(server: Server, timeout: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout));
        Self { server: Arc::new(server), config, timeout, current: Mutex::default() }
    }

    /// Does something with the connection, once: the callers try again.
    pub(super) async fn run<T>(
        &self,
        run: impl FnOnce(MultiplexedConnection) -> BoxFuture<'static, RedisResult<T>>,
    ) -> RedisResult<T> {
        let (number, connecting) = self.current();
        let connection = connecting.await.inspect_err(|_| self.give_up(number))?;
        run(connection).await.inspect_err(|error| {
            if is_over_after(error) {
                self.give_up(number);
            }
        })
    }

    /// A second connection, which receives what is published.
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

    /// The next command opens another connection, unless somebody else has given up this one.
    fn give_up(&self, number: u64) {
        let mut current = self.lock();
        if current.number == number {
            *current = Current { number: number + 1, connection: None };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // A panic elsewhere leaves both fields whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True where another connection may be better: this one is lost or silent, leads to a server that is not the primary any
/// more, or has no login that the server wants now.
fn is_over_after(error: &RedisError) -> bool {
    error.code().is_none_or(|code| matches!(code, "READONLY" | "MASTERDOWN" | "NOAUTH"))
}
