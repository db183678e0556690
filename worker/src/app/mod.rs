//! The application: configuration, broker, result backend and router, created once per process. `.delay()` and
//! `.send()` send through it.

mod builder;
mod call_headers;
pub mod config;
pub mod emit;
mod events;
pub mod info;
mod outgoing;
pub mod pause;
pub mod payload;
mod queues;
pub mod result;
pub mod result_set;
pub mod revoke;
mod rpc;
pub mod schedules;
pub mod send;
mod subscriptions;
pub(crate) mod unique;
pub mod updates;

pub use builder::AppBuilder;
pub use config::{Config, Prefetch, WorkerConfig};
pub use emit::Emitted;
pub use info::JobInfo;
pub use pause::{Pausable, Pause};
pub use payload::Payload;
pub use result::AsyncResult;
pub use result_set::ResultSet;
pub use rpc::Rpc;
pub use schedules::{RunOutcome, ScheduleInfo, ScheduledRun, Schedules};
pub(crate) use subscriptions::{Consumed, Subscriptions};
pub use updates::Updates;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::OnceCell;

use crate::backend::{self, BackendOptions, ResultBackend};
use crate::broker::{self, Broker};
use crate::connection::ConnectOptions;
use crate::error::Result;
use crate::middleware::Chain;
use crate::routing::{Router, Topology};
use crate::task::Registry;

/// One application: cheap to clone, safe to share.
///
/// Programs rarely need it: `.delay()` uses the [global](App::global) application, which is created from the
/// configuration. Build your own to use two brokers, or to change settings in code:
///
/// ```no_run
/// # async fn demo() -> mq_worker::Result<()> {
/// use mq_worker::App;
///
/// App::builder().broker("amqp://localhost")?.install()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct App(Arc<Inner>);

/// Wraps the real broker or result backend in another one.
type Wrap<T> = fn(Arc<T>) -> Arc<T>;

/// The wrappers of an application.
#[derive(Clone, Copy, Debug, Default)]
struct Wraps {
    broker: Option<Wrap<dyn Broker>>,
    backend: Option<Wrap<dyn ResultBackend>>,
}

struct Inner {
    config: Config,
    wraps: Wraps,
    router: Router,
    registry: Registry,
    /// Runs around every call, in its sender and in its worker.
    middleware: Chain,
    broker: OnceCell<Arc<dyn Broker>>,
    backend: OnceCell<Arc<dyn ResultBackend>>,
    /// Set once the broker has the configured topology.
    configured: OnceCell<()>,
    /// Queues that are declared already: a publish need not declare them again.
    declared: Mutex<HashSet<String>>,
    /// The reply queue of this process, created by the first request.
    replies: rpc::Replies,
    producing: events::Producing,
    schedule_figures: schedules::ScheduleFigures,
    /// Names the connections of a worker; those of other programs have the name of the program.
    connects_as: OnceLock<String>,
    /// One declaration at a time: RabbitMQ refuses messages to a quorum queue that several clients declare at once.
    declaring: tokio::sync::Mutex<()>,
}

/// The upper limit of `publish_timeout`. Deadlines are computed from it and must not overflow.
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

static GLOBAL: OnceLock<App> = OnceLock::new();

impl App {
    /// The application of this process. The first use creates it from [`Config::load`], unless
    /// [`install`](AppBuilder::install) was called before.
    ///
    /// # Errors
    /// The configuration has a mistake, or two tasks have the same name.
    pub fn global() -> Result<App> {
        if let Some(app) = GLOBAL.get() {
            return Ok(app.clone());
        }
        let app = App::new(Config::load()?)?;
        Ok(GLOBAL.get_or_init(|| app).clone())
    }

    /// The application of this process, if it exists already.
    #[cfg(any(feature = "cli", unix))]
    pub(crate) fn installed() -> Option<App> {
        GLOBAL.get().cloned()
    }

    /// Starts from the loaded configuration, to change it in code.
    pub fn builder() -> AppBuilder {
        AppBuilder::default()
    }

    /// An application with exactly this configuration.
    ///
    /// # Errors
    /// The configuration has a mistake, or two tasks have the same name.
    pub fn new(config: Config) -> Result<App> {
        Self::assemble(config, Wraps::default(), Chain::collect(Vec::new()))
    }

    /// The same application with another configuration.
    #[cfg(feature = "cli")]
    pub(crate) fn reconfigured(&self, config: Config) -> Result<App> {
        Self::assemble(config, self.0.wraps, self.0.middleware.clone())
    }

    fn assemble(config: Config, wraps: Wraps, middleware: Chain) -> Result<App> {
        let config = config.with_absolute_paths();
        config.topology.validate()?;
        let router = Router::new(config.routes.clone(), config.default_queue.clone())?;
        Ok(App(Arc::new(Inner {
            router,
            registry: Registry::collect()?,
            middleware,
            config,
            wraps,
            broker: OnceCell::new(),
            backend: OnceCell::new(),
            configured: OnceCell::new(),
            declared: Mutex::default(),
            replies: rpc::Replies::default(),
            producing: events::Producing::default(),
            schedule_figures: schedules::ScheduleFigures::default(),
            connects_as: OnceLock::new(),
            declaring: tokio::sync::Mutex::default(),
        })))
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// The tasks that are linked into this program.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The middleware around every call.
    pub(crate) fn middleware(&self) -> &Chain {
        &self.0.middleware
    }

    /// The router: which task goes to which address.
    pub fn router(&self) -> &Router {
        &self.0.router
    }

    /// The broker; the first call opens it and declares the configured topology.
    ///
    /// # Errors
    /// An unknown or invalid URL, a file that cannot be opened, or a topology that cannot be declared. Without a
    /// topology, an unreachable server is not an error yet.
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        match self.0.broker.get().filter(|_| self.0.configured.initialized()) {
            Some(broker) => Ok(Arc::clone(broker)),
            // Boxed: every call that is sent pays for the size of its future.
            None => Box::pin(self.open_and_configure()).await,
        }
    }

    async fn open_and_configure(&self) -> Result<Arc<dyn Broker>> {
        let broker = self.open_broker().await?;
        let declare = || async {
            let topology = self.configured_topology();
            if topology == Topology::default() { Ok(()) } else { broker.declare(&topology).await }
        };
        self.0.configured.get_or_try_init(declare).await?;
        Ok(broker)
    }

    /// Opens the broker without declaring anything: a worker declares by itself and waits for an unreachable server.
    pub(crate) async fn open_broker(&self) -> Result<Arc<dyn Broker>> {
        let options = self.connect_options();
        let open = async || {
            let broker = broker::open(&self.0.config.broker_url, &options).await?;
            Ok(match self.0.wraps.broker {
                Some(wrap) => wrap(broker),
                None => broker,
            })
        };
        self.0.broker.get_or_try_init(open).await.map(Arc::clone)
    }

    /// Ensures that exchanges, queues and bindings exist, in addition to the configured topology.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// use mq_worker::{ExchangeKind, Topology};
    ///
    /// let logs = Topology::new().exchange("logs", ExchangeKind::Fanout).queue("disk").bind("logs", "disk", "");
    /// app.declare(&logs).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An invalid name, a bound exchange that does not exist, or an exchange that exists with another kind. A queue
    /// that exists with other arguments is used unchanged.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        topology.validate()?;
        self.broker().await?.declare(topology).await
    }

    /// The result backend; the first call opens it.
    ///
    /// # Errors
    /// An unknown or invalid URL, or a file that cannot be opened.
    pub async fn backend(&self) -> Result<Arc<dyn ResultBackend>> {
        let Inner { config, backend, .. } = &*self.0;
        if let Some(backend) = backend.get() {
            return Ok(Arc::clone(backend));
        }
        let options = BackendOptions { connect: self.connect_options(), expires: config.result_expires };
        let open = async || {
            let backend = backend::open(&config.broker_url, config.result_backend.as_ref(), &options).await?;
            Ok(match self.0.wraps.backend {
                Some(wrap) => wrap(backend),
                None => backend,
            })
        };
        Box::pin(backend.get_or_try_init(open)).await.map(Arc::clone)
    }

    fn connect_options(&self) -> ConnectOptions {
        ConnectOptions {
            timeout: self.0.config.publish_timeout.min(LONGEST_WAIT),
            queue_kind: self.0.config.queue_kind,
            tls: self.0.config.tls.clone(),
            name: format!("mq-worker {}", self.0.connects_as.get_or_init(config::process_name)),
        }
    }

    /// Gives connections that are opened from now on the worker's name, so that workers can be told apart at the broker.
    pub(crate) fn connect_as_worker(&self) {
        // A program that sent something before it became a worker keeps its connections and their name.
        let _ = self.0.connects_as.set(self.worker_name());
    }

    /// Closes the connections to broker and backend. Sending afterwards is an error.
    pub async fn close(&self) {
        self.0.replies.close().await;
        self.0.producing.close().await;
        if let Some(backend) = self.0.backend.get() {
            backend.close().await;
        }
        if let Some(broker) = self.0.broker.get() {
            broker.close().await;
        }
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.0.config).finish_non_exhaustive()
    }
}
