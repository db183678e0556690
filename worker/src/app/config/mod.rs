//! Every setting of an application, its default, and the sources that it is read from.
//!
//! `settings` is the one table that both readers share: `environment` for `MQ_…` variables and `file` for
//! `mq-worker.toml`, which `home` finds. `origins` remembers where each value came from. The command line parses its
//! flags with the same functions of `value`.

pub mod dashboard;
mod environment;
mod file;
pub(crate) mod home;
pub(crate) mod origins;
mod prefetch;
pub(crate) mod settings;
mod suggest;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::Duration;

use self::dashboard::DashboardConfig;
use self::home::Home;
use self::origins::{Draft, Loaded, Origins};
pub use self::prefetch::Prefetch;
use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::Result;
use crate::message::ResultTypes;
use crate::routing::{QueueKind, RouteRule, Topology};
use crate::schedule::Schedule;
use crate::tracing;

/// Every setting. [`Config::load`] reads `MQ_…` environment variables, then `mq-worker.toml`, then takes
/// the defaults; a builder or the command line changes fields afterwards, and so overrides both.
/// `docs/guide/configuration.md` lists all settings, and `mq-worker config` shows the values in effect.
///
/// Each field is a key of the same name in the file, and a variable in the environment: `broker_url` is
/// `MQ_BROKER_URL`. The fields of [`WorkerConfig`] are in the section `[worker]`, with the variables `MQ_CONCURRENCY`,
/// `MQ_QUEUES` and so on; those of [`TlsOptions`] are in `[tls]`, with `MQ_TLS_CA_FILE`.
///
/// ```toml
/// broker_url = "amqp://localhost"
/// publish_timeout = "5s"
/// max_message_size = "1MiB"
///
/// [worker]
/// queues = ["email", "sms"]
/// concurrency = 50
///
/// [[routes]]
/// task = "feed.*"
/// queue = "feeds"
/// ```
#[derive(Clone, Debug)]
pub struct Config {
    /// The broker that keeps the queues. Default: the file `mq-worker.db` in the root of the cargo workspace in which the
    /// program is started, or next to its `mq-worker.toml` if that is further up or if there is no workspace, else in the
    /// working directory. A relative `sqlite:PATH` starts from the working directory, in `mq-worker.toml` from that file.
    pub broker_url: BrokerUrl,
    /// RabbitMQ's management API, which lists queues for the operating commands: `http://host:15672`, with its own user
    /// and password if they differ from the broker's. Default: port 15672 of the broker's host, or 15671 over `https` for
    /// `amqps`.
    pub management_url: Option<BrokerUrl>,
    /// Where results are stored. Default: with the broker (`rpc://` for RabbitMQ, else the same file or memory).
    pub result_backend: Option<BrokerUrl>,
    /// The queue of tasks that do not name one. Default `default`.
    pub default_queue: String,
    /// The topic exchange to which events are emitted and tasks subscribe. Default `mq.topic`.
    pub topic_exchange: String,
    /// The kind of queue to create on RabbitMQ, unless the queue sets its own. Default quorum.
    pub queue_kind: QueueKind,
    /// Timeout for publishing and for other requests to the broker. Default 10 seconds.
    pub publish_timeout: Duration,
    /// The largest message body to send or to run, in bytes. Default 16 MiB.
    pub max_message_size: usize,
    /// How long results are kept. Default one day.
    pub result_expires: Duration,
    /// Keep a message, and its place in the prefetch, until its result is stored. If false, a message is acked without its
    /// result while the result backend is unreachable; that is logged and counted. Default true.
    pub result_required: bool,
    /// How times, UUIDs, decimals and bytes in results are written, unless the task overrides it: as JSON, or as the types
    /// that Python decodes. Both can be read. Default JSON.
    pub result_types: ResultTypes,
    /// The file in which `mq-worker dashboard` keeps the history of calls, and which `jobs` and `explain` read. Default: the
    /// file `mq-worker-history.db` where the default database would be, see `broker_url`.
    pub history: PathBuf,
    /// How long the history keeps a call. Default 7 days.
    pub history_keep: Duration,
    /// How many calls the history keeps; beyond that the oldest are deleted. Default 10 million.
    pub history_max_rows: u64,
    /// Emit a `task-sent` event for every call that this program sends. Default false.
    pub sent_events: bool,
    /// Show arguments and results in events, shortened. Default true.
    pub event_values: bool,
    /// Store the state `STARTED` when a task starts, with worker and time, unless the task overrides it. Costs a write for
    /// each run. Default false.
    pub track_started: bool,
    /// The addresses of tasks; the first matching rule wins.
    pub routes: Vec<RouteRule>,
    /// Exchanges, queues and bindings to declare in addition to those of the tasks.
    pub topology: Topology,
    /// Schedules, for tasks of this and of other programs; a scheduler acts on them: see [`Beat`](crate::Beat).
    pub schedules: Vec<Schedule>,
    /// Files for `amqps://`.
    pub tls: TlsOptions,
    /// The settings that only workers use.
    pub worker: WorkerConfig,
    /// The settings of the management page.
    pub dashboard: DashboardConfig,
}

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The queues to consume from. Default: the queues of all tasks that are linked in.
    pub queues: Vec<String>,
    /// How many tasks run at once. Default 10 per CPU.
    pub concurrency: usize,
    /// How many messages to reserve. Default: one for each slot, which is the concurrency.
    pub prefetch: Prefetch,
    /// How long running tasks may continue during a warm shutdown. Default 30 seconds.
    pub grace: Duration,
    /// The worker's name: `name@host`. Default: the name of the program, which is that of the package, and the host name.
    pub hostname: Option<String>,
    /// Dead-letter a message after this many crashes of workers that held it. Default 3.
    pub max_crashes: u32,
    /// Answer remote control: `mq-worker status` and `stop`, `celery inspect`, Flower. Default true.
    pub control: bool,
    /// Run a scheduler beside the worker of the `mq-worker` command: see [`Beat`](crate::Beat). Default false.
    pub beat: bool,
    /// Emit events of every call that this worker runs, for Flower, `mq-worker events` and history. Default false: they can
    /// be turned on and off while it runs.
    pub events: bool,
    /// The address that serves `/livez` and `/readyz`, such as `0.0.0.0:9000`. Default: nowhere.
    pub health: Option<SocketAddr>,
    /// How long a worker may receive nothing from a queue that is not empty, or its async runtime may be blocked, before
    /// `/livez` fails. Default 60 seconds; zero turns these checks off.
    pub health_stall_limit: Duration,
    /// How long the broker may be unreachable before `/livez` fails. Default 5 minutes: a worker reconnects by itself, and
    /// restarting every worker does not help a broker. Zero turns the check off.
    pub health_connection_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self::at(&Home::of(&working_directory()))
    }
}

impl Config {
    /// The defaults of a program with this home.
    fn at(home: &Home) -> Self {
        Self {
            broker_url: home.database(),
            management_url: None,
            result_backend: None,
            default_queue: "default".into(),
            topic_exchange: "mq.topic".into(),
            queue_kind: QueueKind::Quorum,
            publish_timeout: Duration::from_secs(10),
            max_message_size: 16 * 1024 * 1024,
            result_expires: Duration::from_secs(24 * 60 * 60),
            result_required: true,
            result_types: ResultTypes::Json,
            history: home.history(),
            history_keep: Duration::from_secs(7 * 24 * 60 * 60),
            history_max_rows: 10_000_000,
            sent_events: false,
            event_values: true,
            track_started: false,
            routes: Vec::new(),
            topology: Topology::default(),
            schedules: Vec::new(),
            tls: TlsOptions::default(),
            worker: WorkerConfig::default(),
            dashboard: DashboardConfig::default(),
        }
    }
}

impl Default for WorkerConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            queues: Vec::new(),
            concurrency: 10 * processors,
            prefetch: Prefetch::default(),
            grace: Duration::from_secs(30),
            hostname: None,
            max_crashes: 3,
            control: true,
            beat: false,
            events: false,
            health: None,
            health_stall_limit: Duration::from_secs(60),
            health_connection_limit: Duration::from_secs(300),
        }
    }
}

impl Config {
    /// Loads the settings from the environment, then the nearest `mq-worker.toml` in the working directory or above it (or
    /// the file that `MQ_CONFIG` names), then the defaults. An empty variable counts as not set.
    ///
    /// # Errors
    /// An unknown key or a bad value: the message names the file or variable, the key and the possible values. An unknown
    /// variable that begins with `MQ_` is an error if it is one typo away from a setting; otherwise it causes a warning.
    pub fn load() -> Result<Self> {
        Self::load_at(None).map(|loaded| loaded.config)
    }

    /// The same, but finds the home from this directory instead of the working directory.
    pub(crate) fn load_at(start: Option<&Path>) -> Result<Loaded> {
        static ONCE: Once = Once::new();
        let sources = Sources::of_process(start);
        let loaded = Self::from_sources(&sources)?;
        // The parent process that set a mark has read the same variables.
        let has_mark = environment::INTERNAL.iter().any(|mark| sources.variables.contains_key(*mark));
        if !loaded.unknown_variables.is_empty() && !has_mark {
            let variables = loaded.unknown_variables.join(", ");
            ONCE.call_once(|| {
                tracing::warn!(
                    variables,
                    "ignored environment variables that begin with MQ_ but are not settings of mq-worker"
                );
            });
        }
        Ok(loaded)
    }

    fn from_sources(sources: &Sources) -> Result<Loaded> {
        let named = sources.variables.get("MQ_CONFIG").map(|path| sources.directory.join(path));
        let is_named = named.is_some();
        let home = named.map_or_else(|| Home::of(&sources.start), Home::named);
        let mut draft = Draft { config: Self::at(&home), origins: Origins::new() };
        if let Some(path) = &home.file {
            file::read(&mut draft, path, is_named)?;
        }
        let unknown_variables = environment::read(&mut draft, sources)?;
        let Draft { config, origins } = draft;
        Ok(Loaded { config, origins, home, unknown_variables })
    }

    /// Loads from the text of a file and from variables.
    #[cfg(all(any(test, fuzzing), feature = "amqp", feature = "sqlite"))]
    pub(crate) fn from_texts(file: &str, variables: BTreeMap<String, OsString>) -> Result<Self> {
        let mut draft = Draft { config: Self::default(), origins: Origins::new() };
        file::read_text(&mut draft, Path::new(file::NAME), file)?;
        let sources = Sources { variables, directory: PathBuf::new(), start: PathBuf::new() };
        environment::read(&mut draft, &sources)?;
        Ok(draft.config)
    }

    /// Makes relative paths of databases absolute: every program that they are passed to must open the same file.
    pub(crate) fn with_absolute_paths(mut self) -> Self {
        let directory = working_directory();
        self.broker_url = self.broker_url.relative_to(&directory);
        self.result_backend = self.result_backend.map(|url| url.relative_to(&directory));
        self.history = directory.join(&self.history);
        self
    }

    /// The result backend in effect: the configured one, or the one that follows from the broker.
    pub fn effective_result_backend(&self) -> BrokerUrl {
        if let Some(url) = &self.result_backend {
            return url.clone();
        }
        match self.broker_url.scheme().as_str() {
            "amqp" | "amqps" => "rpc://".parse().expect("the text is a URL"),
            _ => self.broker_url.clone(),
        }
    }
}

impl WorkerConfig {
    /// The worker's full name. In the configured name, `%h` stands for the host name; if there is no `@`, the host name is
    /// appended.
    pub fn full_name(&self) -> String {
        let default;
        let given = match &self.hostname {
            Some(name) => name,
            None => {
                default = process_name();
                &default
            }
        };
        let name = if given.contains("%h") { given.replace("%h", &machine_name()) } else { given.to_owned() };
        if name.contains('@') { name } else { format!("{name}@{}", machine_name()) }
    }
}

/// The suffix that turns a package's name into that of the worker built from its tasks.
pub(crate) const WORKER_SUFFIX: &str = "-mq-worker";

/// The name of this program, without characters that a worker's name cannot have.
fn program_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(WORKER_SUFFIX).unwrap_or(&name);
    let is_plain = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = name.chars().filter(is_plain).take(100).collect();
    if name.is_empty() { "mq-worker".into() } else { name }
}

/// This program on this machine: `name@host`.
pub(super) fn process_name() -> String {
    format!("{}@{}", program_name(), machine_name())
}

/// The host name of this machine.
pub(super) fn machine_name() -> String {
    #[cfg(unix)]
    let name = Some(rustix::system::uname().nodename().to_string_lossy().into_owned());
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").ok();
    let name = name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.unwrap_or_else(|| "localhost".into())
}

/// The current directory of this process.
fn working_directory() -> PathBuf {
    std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."))
}

/// The sources of a configuration; tests supply their own.
struct Sources {
    /// The variables whose names begin with `MQ_`.
    variables: BTreeMap<String, OsString>,
    /// The directory that paths in variables are relative to.
    directory: PathBuf,
    /// The directory from which the home is found.
    start: PathBuf,
}

impl Sources {
    fn of_process(start: Option<&Path>) -> Self {
        let ours = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        let variables = std::env::vars_os()
            .filter_map(ours)
            .filter(|(name, value)| name.starts_with(environment::PREFIX) && !value.is_empty())
            .collect();
        let directory = working_directory();
        let start = start.map_or_else(|| directory.clone(), |start| directory.join(start));
        Self { variables, directory, start }
    }
}

#[cfg(test)]
mod tests;
