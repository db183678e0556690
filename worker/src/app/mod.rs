//! The application: configuration, broker, result backend and router brought together once per process, and the
//! sending that `.delay()` and `.send()` do through it.

pub mod config;
pub mod emit;
pub mod payload;
pub mod result;
pub mod revoke;
mod rpc;
pub mod send;
mod subscriptions;
pub(crate) mod unique;

pub use config::{Config, WorkerConfig};
pub use emit::Emitted;
pub use payload::Payload;
pub use result::AsyncResult;
pub use rpc::Rpc;
pub(crate) use subscriptions::{Consumed, Subscriptions};

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::OnceCell;

use self::config::value;
use crate::backend::{self, BackendOptions, ResultBackend};
use crate::broker::{self, Broker};
use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, Result};
use crate::routing::topology::check_name;
use crate::routing::{Exchange, Queue, QueueKind, Router, Topology};
use crate::task::Registry;

/// One application: cheap to clone, safe to share.
///
/// A program rarely names it: `.delay()` uses the [global](App::global) one, made from the configuration. Make
/// your own to talk to two brokers, or to set things in code:
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

/// Puts another broker around the real one.
type WrapBroker = fn(Arc<dyn Broker>) -> Arc<dyn Broker>;

struct Inner {
    config: Config,
    wrap_broker: Option<WrapBroker>,
    router: Router,
    registry: Registry,
    broker: OnceCell<Arc<dyn Broker>>,
    backend: OnceCell<Arc<dyn ResultBackend>>,
    /// Set once the broker has the configured topology.
    configured: OnceCell<()>,
    /// Queues that were declared already: a publish need not declare them again.
    declared: Mutex<HashSet<String>>,
    /// Where answers to this process come in, made by the first question.
    replies: rpc::Replies,
    /// One declaration at a time: RabbitMQ refuses messages to a quorum queue that several declare at once.
    declaring: tokio::sync::Mutex<()>,
}

static GLOBAL: OnceLock<App> = OnceLock::new();

impl App {
    /// The application of this process. The first use makes it from [`Config::load`], unless
    /// [`install`](AppBuilder::install) came first.
    ///
    /// # Errors
    /// When the configuration has a mistake, or two tasks have one name.
    pub fn global() -> Result<App> {
        if let Some(app) = GLOBAL.get() {
            return Ok(app.clone());
        }
        let app = App::new(Config::load()?)?;
        Ok(GLOBAL.get_or_init(|| app).clone())
    }

    /// The application of this process, if it has one already.
    #[cfg(any(feature = "cli", unix))]
    pub(crate) fn installed() -> Option<App> {
        GLOBAL.get().cloned()
    }

    /// Begins with the loaded configuration and changes it in code.
    pub fn builder() -> AppBuilder {
        AppBuilder { config: None, wrap_broker: None }
    }

    /// An application with exactly this configuration.
    ///
    /// # Errors
    /// When the configuration has a mistake, or two tasks have one name.
    pub fn new(config: Config) -> Result<App> {
        Self::assemble(config, None)
    }

    /// The same application with another configuration.
    #[cfg(feature = "cli")]
    pub(crate) fn reconfigured(&self, config: Config) -> Result<App> {
        Self::assemble(config, self.0.wrap_broker)
    }

    fn assemble(config: Config, wrap_broker: Option<WrapBroker>) -> Result<App> {
        config.topology.validate()?;
        let router = Router::new(config.routes.clone(), config.default_queue.clone())?;
        Ok(App(Arc::new(Inner {
            router,
            registry: Registry::collect()?,
            config,
            wrap_broker,
            broker: OnceCell::new(),
            backend: OnceCell::new(),
            configured: OnceCell::new(),
            declared: Mutex::default(),
            replies: rpc::Replies::default(),
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

    /// Which task goes where.
    pub fn router(&self) -> &Router {
        &self.0.router
    }

    /// The broker; the first call opens it and declares the configured topology.
    ///
    /// # Errors
    /// A URL that no broker has, a file that cannot be opened, or a topology that cannot be declared. Without a
    /// topology a server that is away is no error yet.
    pub async fn broker(&self) -> Result<Arc<dyn Broker>> {
        let broker = self.open_broker().await?;
        let declare = || async {
            let topology = self.configured_topology();
            if topology == Topology::default() { Ok(()) } else { broker.declare(&topology).await }
        };
        self.0.configured.get_or_try_init(declare).await?;
        Ok(broker)
    }

    /// The broker as it is: for a worker, which declares for itself and waits for a server that is away.
    pub(crate) async fn open_broker(&self) -> Result<Arc<dyn Broker>> {
        let options = self.connect_options();
        let open = async || {
            let broker = broker::open(&self.0.config.broker_url, &options).await?;
            Ok(match self.0.wrap_broker {
                Some(wrap) => wrap(broker),
                None => broker,
            })
        };
        self.0.broker.get_or_try_init(open).await.map(Arc::clone)
    }

    /// Makes sure that exchanges, queues and bindings exist, as the configured topology does.
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
    /// A name that is not valid, an exchange that is bound but does not exist, or one that exists with another
    /// kind. A queue that exists with other arguments is used as it is.
    pub async fn declare(&self, topology: &Topology) -> Result<()> {
        topology.validate()?;
        self.broker().await?.declare(topology).await
    }

    /// The result backend; the first call opens it.
    ///
    /// # Errors
    /// A URL that no backend has, or a file that cannot be opened.
    pub async fn backend(&self) -> Result<Arc<dyn ResultBackend>> {
        let Inner { config, backend, .. } = &*self.0;
        let options = BackendOptions { connect: self.connect_options(), expires: config.result_expires };
        let open = || backend::open(&config.broker_url, config.result_backend.as_ref(), &options);
        backend.get_or_try_init(open).await.map(Arc::clone)
    }

    fn connect_options(&self) -> ConnectOptions {
        ConnectOptions {
            timeout: self.0.config.publish_timeout,
            queue_kind: self.0.config.queue_kind,
            tls: self.0.config.tls.clone(),
            name: "mq-worker".into(),
        }
    }

    /// Makes sure that a task queue and its dead-letter queue exist, once per process.
    pub(crate) async fn ensure_queue(&self, name: &str) -> Result<()> {
        if self.is_declared(name) {
            return Ok(());
        }
        let _one_at_a_time = self.0.declaring.lock().await;
        if self.is_declared(name) {
            return Ok(());
        }
        let topology = self.task_queue(name);
        self.broker().await?.declare(&topology).await?;
        topology.queues.into_iter().for_each(|queue| self.set_declared(queue.name));
        Ok(())
    }

    /// Makes sure that the dead-letter queue of a queue exists, once per process.
    pub(crate) async fn ensure_dead_letter_queue(&self, of: &str) -> Result<()> {
        let name = Queue::dead_letter_name(of);
        if self.is_declared(&name) {
            return Ok(());
        }
        let _one_at_a_time = self.0.declaring.lock().await;
        if self.is_declared(&name) {
            return Ok(());
        }
        let queue = self.configured_queue(&name).unwrap_or_else(|| Queue::new(&name));
        self.broker().await?.declare(&Topology::of_queue(queue)).await?;
        self.set_declared(name);
        Ok(())
    }

    fn is_declared(&self, name: &str) -> bool {
        self.0.declared.lock().expect("never poisoned").contains(name)
    }

    fn set_declared(&self, name: String) {
        self.0.declared.lock().expect("never poisoned").insert(name);
    }

    /// Forgets what was declared: somebody deleted it, so that the next use declares it again.
    pub(crate) fn forget_declared(&self) {
        self.0.declared.lock().expect("never poisoned").clear();
    }

    /// The configured topology, its queues as this application creates them.
    pub(crate) fn configured_topology(&self) -> Topology {
        let Topology { exchanges, queues, bindings } = self.0.config.topology.clone();
        let mut topology = Topology { exchanges, ..Topology::default() };
        for queue in &queues {
            topology.merge(self.with_dead_letters(queue.clone()));
        }
        topology.bindings = bindings;
        topology
    }

    /// A task queue as this application creates it: with a dead-letter queue beside it.
    pub(crate) fn task_queue(&self, name: &str) -> Topology {
        let queue = self.configured_queue(name).unwrap_or_else(|| {
            let mut queue = Queue::new(name);
            queue.max_priority = self.highest_priority(name);
            queue
        });
        self.with_dead_letters(queue)
    }

    /// True when others declare this queue.
    pub(crate) fn is_external(&self, queue: &str) -> bool {
        self.0.config.topology.queues.iter().any(|known| known.external && known.name == queue)
    }

    fn configured_queue(&self, name: &str) -> Option<Queue> {
        self.0.config.topology.queues.iter().find(|queue| queue.name == name).cloned()
    }

    /// A queue that stays has a dead-letter queue beside it: without one the broker would drop a message that
    /// reaches its delivery limit. A queue that is the dead-letter queue of another needs none.
    ///
    /// Nor does one that is not managed: its dead-letter queue is made when the first dead letter is written.
    fn with_dead_letters(&self, mut queue: Queue) -> Topology {
        let stays = queue.durable && !queue.exclusive && !queue.auto_delete;
        let dead = Queue::dead_letter_name(&queue.name);
        if !stays
            || !queue.is_managed()
            || queue.name.ends_with(".dead")
            || check_name("queue", &dead).is_err()
        {
            return Topology::of_queue(queue);
        }
        if queue.dead_letter_exchange.is_none() {
            queue.dead_letter_exchange = Some(String::new());
            queue.dead_letter_routing_key = Some(dead.clone());
        }
        let dead = self.configured_queue(&dead).unwrap_or_else(|| Queue::new(dead));
        Topology { queues: vec![dead, queue], ..Topology::default() }
    }

    /// A queue knows priorities when a task or a rule that goes there has one.
    fn highest_priority(&self, queue: &str) -> Option<u8> {
        let tasks = self.0.registry.iter().filter_map(|task| {
            let route = self.0.router.route(task.name, task.options.queue, Default::default());
            (route.queue.as_deref() == Some(queue)).then(|| task.options.priority.max(route.priority))?
        });
        // One number for all, so that a change of one task's priority does not ask for another kind of queue.
        tasks.max().map(|highest| highest.max(9))
    }

    /// Says goodbye to broker and backend. Sending afterwards is an error.
    pub async fn close(&self) {
        self.0.replies.close().await;
        if let Some(backend) = self.0.backend.get() {
            backend.close().await;
        }
        if let Some(broker) = self.0.broker.get() {
            broker.close().await;
        }
    }
}

/// Makes an [`App`].
#[derive(Debug)]
pub struct AppBuilder {
    config: Option<Config>,
    wrap_broker: Option<WrapBroker>,
}

impl AppBuilder {
    /// Begins with these settings instead of those of environment and file.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// The broker's address.
    ///
    /// # Errors
    /// A text that is no broker's URL, or a mistake in environment or file.
    pub fn broker(self, url: &str) -> Result<Self> {
        let url = read(url, value::broker)?;
        self.set(|config| config.broker_url = url)
    }

    /// The result backend's address.
    ///
    /// # Errors
    /// A text that is no result backend's URL, or a mistake in environment or file.
    pub fn result_backend(self, url: &str) -> Result<Self> {
        let url = read(url, value::result_backend)?;
        self.set(|config| config.result_backend = Some(url))
    }

    /// The kind of queue to create on RabbitMQ.
    ///
    /// # Errors
    /// A mistake in environment or file.
    pub fn queue_kind(self, kind: QueueKind) -> Result<Self> {
        self.set(|config| config.queue_kind = kind)
    }

    /// Says how a queue is declared: [`Queue::external`] leaves that to others, [`Queue::exact`] does it with
    /// exactly these arguments, [`Queue::new`] as a task queue with a dead-letter queue beside it. It replaces what the
    /// configuration says about the queue.
    ///
    /// # Errors
    /// A mistake in environment or file.
    pub fn queue(self, queue: impl Into<Queue>) -> Result<Self> {
        let queue = queue.into();
        self.set(|config| {
            config.topology.queues.retain(|known| known.name != queue.name);
            config.topology.queues.push(queue);
        })
    }

    /// Says how an exchange is declared: [`Exchange::external`] leaves that to others. It replaces what the
    /// configuration says about the exchange.
    ///
    /// # Errors
    /// A mistake in environment or file.
    pub fn exchange(self, exchange: Exchange) -> Result<Self> {
        self.set(|config| {
            config.topology.exchanges.retain(|known| known.name != exchange.name);
            config.topology.exchanges.push(exchange);
        })
    }

    /// Changes any setting.
    ///
    /// # Errors
    /// A mistake in environment or file.
    pub fn set(mut self, change: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = match self.config.take() {
            Some(config) => config,
            None => Config::load()?,
        };
        change(&mut config);
        Ok(Self { config: Some(config), ..self })
    }

    /// Puts another broker around the real one, so that a test can break its promises on purpose.
    #[doc(hidden)]
    #[must_use]
    pub fn wrap_broker(mut self, wrap: fn(Arc<dyn Broker>) -> Arc<dyn Broker>) -> Self {
        self.wrap_broker = Some(wrap);
        self
    }

    /// The application.
    ///
    /// # Errors
    /// A mistake in the configuration, or two tasks of one name.
    pub fn build(self) -> Result<App> {
        let config = match self.config {
            Some(config) => config,
            None => Config::load()?,
        };
        App::assemble(config, self.wrap_broker)
    }

    /// Makes it the application of this process, which `.delay()` uses.
    ///
    /// # Errors
    /// As [`build`](Self::build), or when the process has one already.
    pub fn install(self) -> Result<App> {
        let app = self.build()?;
        GLOBAL.set(app.clone()).map_err(|_| {
            Error::config("this process has an application already: install it before the first `.delay()`")
        })?;
        Ok(app)
    }
}

fn read(text: &str, read: fn(&str) -> Result<BrokerUrl, value::Problem>) -> Result<BrokerUrl> {
    read(text).map_err(|problem| Error::config(format!("`{}`: {problem}", value::shown_address(text))))
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("config", &self.0.config).finish_non_exhaustive()
    }
}
