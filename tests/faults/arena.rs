//! The broker under test and the faults that can be injected into it.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use mq_worker::{App, Config, QueueKind};
use support::{Node, Proxy};

use crate::store::{Store, StoreKind};

/// The queue of all tasks.
pub(crate) const QUEUE: &str = "faults";
/// The queue of their dead letters.
pub(crate) const DEAD: &str = "faults.dead";
/// How many tasks a worker runs at once, and how many messages it may hold.
pub(crate) const CONCURRENCY: usize = 4;
/// How long a publish may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Short, so that even a short pause is noticed.
const HEARTBEAT: &str = "heartbeat = 3";

/// The kind of broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// RabbitMQ with quorum queues.
    Rabbitmq,
    /// RabbitMQ with classic queues.
    RabbitmqClassic,
    /// Three nodes with quorum queues.
    Cluster,
    /// A file.
    Sqlite,
}

impl Kind {
    pub(crate) fn is_rabbitmq(self) -> bool {
        self != Kind::Sqlite
    }
}

/// The broker under test.
pub(crate) struct Arena {
    pub(crate) kind: Kind,
    directory: PathBuf,
    nodes: Vec<Mutex<Node>>,
    /// The store for the results of all tasks.
    pub(crate) store: Option<Store>,
}

impl Arena {
    /// Starts what the kind needs; files go into the directory.
    pub(crate) fn start(kind: Kind, store: Option<StoreKind>, directory: &Path) -> Arena {
        let nodes = match kind {
            Kind::Sqlite => Vec::new(),
            Kind::Rabbitmq | Kind::RabbitmqClassic => vec![Node::start_with(HEARTBEAT)],
            Kind::Cluster => Node::start_cluster(3, HEARTBEAT),
        };
        let nodes = nodes.into_iter().map(Mutex::new).collect();
        Arena { kind, directory: directory.to_owned(), nodes, store: store.map(Store::start) }
    }

    fn database(&self) -> PathBuf {
        self.directory.join("queue.db")
    }

    pub(crate) fn members(&self) -> usize {
        self.nodes.len()
    }

    /// Opens a separate route to the broker for process number `index`: its address, and the proxy on the route.
    pub(crate) fn way(&self, index: usize) -> (String, Option<Proxy>) {
        match self.kind {
            Kind::Sqlite => (format!("sqlite:{}", self.database().display()), None),
            _ => {
                let node = self.nodes[index % self.nodes.len()].lock().expect("never poisoned");
                let proxy = Proxy::start(format!("127.0.0.1:{}", node.port()));
                (format!("amqp://guest:guest@{}/%2f", proxy.address()), Some(proxy))
            }
        }
    }

    /// The settings of a process, as environment variables.
    pub(crate) fn settings(&self, url: &str) -> Vec<(&'static str, String)> {
        let queue_kind = if self.kind == Kind::RabbitmqClassic { "classic" } else { "quorum" };
        let stored = self.store.as_ref().map(|store| ("MQ_RESULT_BACKEND", store.url()));
        let mut settings = vec![
            ("MQ_BROKER_URL", url.to_owned()),
            ("MQ_DEFAULT_QUEUE", QUEUE.to_owned()),
            ("MQ_QUEUES", QUEUE.to_owned()),
            ("MQ_QUEUE_KIND", queue_kind.to_owned()),
            ("MQ_CONCURRENCY", CONCURRENCY.to_string()),
            ("MQ_GRACE", "5s".to_owned()),
            ("MQ_PUBLISH_TIMEOUT", format!("{}s", PUBLISH_TIMEOUT.as_secs())),
            ("MQ_LOG_LEVEL", "info".to_owned()),
        ];
        settings.extend(stored);
        settings
    }

    /// Returns an application for the control itself, connected without a proxy.
    pub(crate) fn app(&self) -> mq_worker::Result<App> {
        let url = match self.kind {
            Kind::Sqlite => format!("sqlite:{}", self.database().display()),
            _ => self.nodes[0].lock().expect("never poisoned").url(),
        };
        let queue_kind =
            if self.kind == Kind::RabbitmqClassic { QueueKind::Classic } else { QueueKind::Quorum };
        App::new(Config {
            broker_url: url.parse()?,
            result_backend: self.store.as_ref().map(|store| store.url().parse()).transpose()?,
            default_queue: QUEUE.to_owned(),
            queue_kind,
            ..Config::default()
        })
    }

    /// Kills a node and starts it again.
    pub(crate) fn restart(&self, member: usize, down: Duration) {
        let mut node = self.nodes[member].lock().expect("never poisoned");
        node.kill9();
        thread::sleep(down);
        node.launch();
    }

    /// Returns the queues in which delayed messages wait, with their lengths. Only RabbitMQ has such queues.
    pub(crate) fn waiting(&self) -> Vec<(String, u64)> {
        let Some(node) = self.nodes.first() else { return Vec::new() };
        let listed =
            node.lock().expect("never poisoned").ctl.run(["list_queues", "--silent", "name", "messages"]);
        let counts = listed.lines().filter_map(|line| line.split_once('\t'));
        counts
            .filter(|(name, _)| name.contains("_delayed_"))
            .filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?)))
            .collect()
    }

    pub(crate) fn close_all_connections(&self) {
        self.nodes[0].lock().expect("never poisoned").close_all_connections();
    }

    pub(crate) fn memory_alarm(&self, lasts: Duration) {
        let node = self.nodes[0].lock().expect("never poisoned");
        node.set_memory_alarm(true);
        thread::sleep(lasts);
        node.set_memory_alarm(false);
    }

    pub(crate) fn disk_alarm(&self, lasts: Duration) {
        let node = self.nodes[0].lock().expect("never poisoned");
        node.set_disk_alarm(true);
        thread::sleep(lasts);
        node.set_disk_alarm(false);
    }

    /// Takes the write lock of the file, as another program might.
    pub(crate) fn lock(&self, lasts: Duration) {
        let database = rusqlite::Connection::open(self.database()).expect("the file can be opened");
        database.busy_timeout(Duration::from_secs(30)).expect("a time-out");
        database.execute_batch("BEGIN IMMEDIATE").expect("the lock is free at some time");
        thread::sleep(lasts);
        database.execute_batch("ROLLBACK").expect("it was taken");
    }
}
