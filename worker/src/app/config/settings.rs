//! The table of settings: each with its key in the file, its variable, its flag, and how it is set and shown.
//!
//! The readers, `mq-worker config` and `docs/guide/configuration.md` all follow from it.

use std::path::Path;
use std::time::Duration;

use super::Config;
use super::value::{self, Problem};
use crate::routing::QueueKind;

/// One setting.
#[allow(
    dead_code,
    reason = "what is for people only is compared with `docs/guide/configuration.md` by a test"
)]
pub(crate) struct Setting {
    /// The section of the file; empty is the top.
    pub(crate) section: &'static str,
    /// The key: the name of the field.
    pub(crate) key: &'static str,
    /// The environment variable.
    pub(crate) variable: &'static str,
    /// The flag of the command; empty where there is none.
    pub(crate) flag: &'static str,
    /// The format of the value, with its unit.
    pub(crate) unit: &'static str,
    /// The default, for people.
    pub(crate) default: &'static str,
    /// What the setting is for.
    pub(crate) about: &'static str,
    /// Parses the text and sets the field; a path in it is relative to the directory.
    pub(super) set: fn(&mut Config, &str, &Path) -> Result<(), Problem>,
    /// Formats the field, without secrets. `None` if it is not set.
    pub(crate) get: fn(&Config) -> Option<String>,
}

impl Setting {
    /// `grace` at the top of the file, `worker.grace` in a section.
    pub(crate) fn path(&self) -> String {
        if self.section.is_empty() { self.key.to_owned() } else { format!("{}.{}", self.section, self.key) }
    }

    /// A refused value, for an error message.
    pub(super) fn shown(&self, text: &str) -> String {
        match self.key {
            "broker_url" | "management_url" | "result_backend" => value::redacted_address(text),
            _ => value::shown(text),
        }
    }
}

/// The sections that are tables of settings.
pub(super) const SECTIONS: [&str; 2] = ["worker", "tls"];

/// The structured parts of the file, with their variables.
pub(crate) const STRUCTURES: [(&str, &str); 4] = [
    ("routes", "MQ_ROUTES"),
    ("topology", "MQ_TOPOLOGY"),
    ("dashboard", "MQ_DASHBOARD"),
    ("schedules", "MQ_SCHEDULES"),
];

const DURATION: &str = "duration: `30s`, `1h 30m`";
const COUNT: &str = "whole number, at least 1";
const PATH: &str = "path";

macro_rules! settings {
    ($($section:literal $key:literal $variable:literal $flag:literal, $unit:expr, $default:literal, $about:literal,
       |$c:ident, $t:pat_param, $base:pat_param| $set:expr, |$shown:ident| $get:expr;)*) => {
        /// Every setting that is one value.
        pub(crate) const SETTINGS: &[Setting] = &[$(Setting {
            section: $section,
            key: $key,
            variable: $variable,
            flag: $flag,
            unit: $unit,
            default: $default,
            about: $about,
            set: |$c, $t, $base| {
                $set;
                Ok(())
            },
            get: |$shown| $get,
        },)*];
    };
}

settings! {
    "" "broker_url" "MQ_BROKER_URL" "--broker", "URL: `amqp://`, `amqps://`, `sqlite:PATH`, `memory://`",
        "`sqlite:mq-worker.db` in the workspace", "The broker that keeps the queues",
        |c, t, base| c.broker_url = value::broker(t)?.relative_to(base), |c| Some(c.broker_url.to_string());
    "" "management_url" "MQ_MANAGEMENT_URL" "", "URL: `http://HOST:PORT`, `https://HOST:PORT`",
        "port 15672 of the broker's host", "RabbitMQ's management API, for the operating commands",
        |c, t, _| c.management_url = Some(value::management(t)?),
        |c| c.management_url.as_ref().map(ToString::to_string);
    "" "result_backend" "MQ_RESULT_BACKEND" "--result-backend", "URL: `rpc://`, `redis://`, `rediss://`, `sentinel://`, `postgres://`, `sqlite:PATH`, `memory://`, `none`",
        "with the broker", "Where results are stored",
        |c, t, base| c.result_backend = Some(value::result_backend(t)?.relative_to(base)),
        |c| Some(c.effective_result_backend().to_string());
    "" "default_queue" "MQ_DEFAULT_QUEUE" "", "name", "`default`", "The queue of tasks that do not name one",
        |c, t, _| c.default_queue = value::queue(t)?, |c| Some(c.default_queue.clone());
    "" "topic_exchange" "MQ_TOPIC_EXCHANGE" "", "name", "`mq.topic`", "The exchange for events and topics",
        |c, t, _| c.topic_exchange = value::exchange(t)?, |c| Some(c.topic_exchange.clone());
    "" "queue_kind" "MQ_QUEUE_KIND" "", "`quorum`, `classic` or `broker` (its default)", "`quorum`",
        "The kind of queue to create on RabbitMQ, unless the queue sets its own",
        |c, t, _| c.queue_kind = value::queue_kind(t)?, |c| Some(kind(c.queue_kind).into());
    "" "publish_timeout" "MQ_PUBLISH_TIMEOUT" "", DURATION, "`10s`",
        "Timeout for publishing and for other requests to the broker",
        |c, t, _| c.publish_timeout = value::positive_duration(t)?, |c| duration(c.publish_timeout);
    "" "max_message_size" "MQ_MAX_MESSAGE_SIZE" "", "bytes: `16MiB`, `500kB`, `65536`", "`16MiB`",
        "The largest message body to send or to run",
        |c, t, _| c.max_message_size = value::size(t)?, |c| Some(bytes(c.max_message_size));
    "" "result_expires" "MQ_RESULT_EXPIRES" "", DURATION, "`1day`", "How long results are kept",
        |c, t, _| c.result_expires = value::positive_duration(t)?, |c| duration(c.result_expires);
    "" "result_required" "MQ_RESULT_REQUIRED" "", "`true` or `false`", "`true`",
        "Keep a message until its result is stored; `false`: acknowledge it without while the store is away",
        |c, t, _| c.result_required = value::switch(t)?, |c| Some(c.result_required.to_string());
    "" "result_types" "MQ_RESULT_TYPES" "", "`json` or `kombu`", "`json`",
        "How times, UUIDs, decimals and bytes in results are written; `kombu` as Python's own types",
        |c, t, _| c.result_types = value::result_types(t)?, |c| Some(c.result_types.as_str().into());
    "" "history" "MQ_HISTORY" "--history", PATH, "`mq-worker-history.db` in the workspace",
        "The file in which `mq-worker dashboard` keeps the history of calls, for `jobs` and `explain`",
        |c, t, base| c.history = base.join(value::path(t)?), |c| Some(c.history.display().to_string());
    "" "history_keep" "MQ_HISTORY_KEEP" "", DURATION, "`7days`", "How long the history keeps a call",
        |c, t, _| c.history_keep = value::positive_duration(t)?, |c| duration(c.history_keep);
    "" "history_max_rows" "MQ_HISTORY_MAX_ROWS" "", COUNT, "`10000000`",
        "How many calls the history keeps; beyond that, the oldest are deleted",
        |c, t, _| c.history_max_rows = value::count(t)?.into(), |c| Some(c.history_max_rows.to_string());
    "" "sent_events" "MQ_SENT_EVENTS" "", "`true` or `false`", "`false`",
        "Emit a `task-sent` event for every call that this program sends",
        |c, t, _| c.sent_events = value::switch(t)?, |c| Some(c.sent_events.to_string());
    "" "event_values" "MQ_EVENT_VALUES" "", "`true` or `false`", "`true`",
        "Show arguments and results in events, shortened",
        |c, t, _| c.event_values = value::switch(t)?, |c| Some(c.event_values.to_string());
    "" "track_started" "MQ_TRACK_STARTED" "", "`true` or `false`", "`false`",
        "Store the state `STARTED` when a task begins; costs a write for each run",
        |c, t, _| c.track_started = value::switch(t)?, |c| Some(c.track_started.to_string());
    "worker" "queues" "MQ_QUEUES" "--queues", "names, separated by commas", "those of all tasks",
        "The queues to consume from",
        |c, t, _| c.worker.queues = value::queues(t)?,
        |c| Some(c.worker.queues.join(",")).filter(|queues| !queues.is_empty());
    "worker" "concurrency" "MQ_CONCURRENCY" "--concurrency", COUNT, "10 per CPU",
        "How many tasks run at once",
        |c, t, _| c.worker.concurrency = value::concurrency(t)?, |c| Some(c.worker.concurrency.to_string());
    "worker" "prefetch" "MQ_PREFETCH" "--prefetch", "whole number, at least 1, or `auto`", "the concurrency",
        "How many messages to reserve; `auto`: the concurrency while tasks are long, more while they are short",
        |c, t, _| c.worker.prefetch = value::prefetch(t)?, |c| Some(c.worker.prefetch.shown(c.worker.concurrency));
    "worker" "grace" "MQ_GRACE" "--grace", DURATION, "`30s`",
        "How long running tasks may continue after the worker is asked to stop",
        |c, t, _| c.worker.grace = value::duration(t)?, |c| duration(c.worker.grace);
    "worker" "hostname" "MQ_HOSTNAME" "--hostname", "name; `%h` is the host name", "the program's name and `@%h`",
        "The worker's name",
        |c, t, _| c.worker.hostname = Some(value::hostname(t)?), |c| Some(c.worker.full_name());
    "worker" "max_crashes" "MQ_MAX_CRASHES" "", COUNT, "`3`",
        "Dead-letter a message after this many crashes of workers that held it",
        |c, t, _| c.worker.max_crashes = value::count(t)?, |c| Some(c.worker.max_crashes.to_string());
    "worker" "control" "MQ_CONTROL" "", "`true` or `false`", "`true`",
        "Answer remote control: `mq-worker status` and `stop`, `celery inspect`, Flower",
        |c, t, _| c.worker.control = value::switch(t)?, |c| Some(c.worker.control.to_string());
    "worker" "beat" "MQ_BEAT" "--beat", "`true` or `false`", "`false`",
        "Run a scheduler beside the worker: of all that run, one sends the calls of schedules",
        |c, t, _| c.worker.beat = value::switch(t)?, |c| Some(c.worker.beat.to_string());
    "worker" "events" "MQ_EVENTS" "--events", "`true` or `false`", "`false`",
        "Emit events of every call that the worker runs, for Flower and `mq-worker events`",
        |c, t, _| c.worker.events = value::switch(t)?, |c| Some(c.worker.events.to_string());
    "worker" "health" "MQ_HEALTH" "--health", "address and port: `0.0.0.0:9000`", "nowhere",
        "The address that serves `/livez` and `/readyz`",
        |c, t, _| c.worker.health = Some(value::address(t)?), |c| c.worker.health.map(|a| a.to_string());
    "worker" "health_stall_limit" "MQ_HEALTH_STALL_LIMIT" "", DURATION, "`1m`",
        "How long a worker may receive nothing from a queue that is not empty, or its runtime may be blocked, before \
         `/livez` fails; `0s` means forever",
        |c, t, _| c.worker.health_stall_limit = value::duration(t)?, |c| duration(c.worker.health_stall_limit);
    "worker" "health_connection_limit" "MQ_HEALTH_CONNECTION_LIMIT" "", DURATION, "`5m`",
        "How long the broker may be unreachable before `/livez` fails; `0s` means forever",
        |c, t, _| c.worker.health_connection_limit = value::duration(t)?,
        |c| duration(c.worker.health_connection_limit);
    "tls" "ca_file" "MQ_TLS_CA_FILE" "", PATH, "the system's certificates",
        "Certificates of a private authority for `amqps://`, as PEM",
        |c, t, base| c.tls.ca_file = Some(base.join(value::path(t)?)), |c| shown(c.tls.ca_file.as_deref());
    "tls" "cert_file" "MQ_TLS_CERT_FILE" "", PATH, "none", "The client's certificate, as PEM",
        |c, t, base| c.tls.cert_file = Some(base.join(value::path(t)?)), |c| shown(c.tls.cert_file.as_deref());
    "tls" "key_file" "MQ_TLS_KEY_FILE" "", PATH, "none", "The client's private key, as PEM",
        |c, t, base| c.tls.key_file = Some(base.join(value::path(t)?)), |c| shown(c.tls.key_file.as_deref());
}

/// The settings of one section.
pub(super) fn of_section(section: &str) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.section == section)
}

fn duration(duration: Duration) -> Option<String> {
    Some(humantime::format_duration(duration).to_string())
}

fn bytes(bytes: usize) -> String {
    let mebibyte = 1 << 20;
    if bytes.is_multiple_of(mebibyte) { format!("{}MiB", bytes / mebibyte) } else { bytes.to_string() }
}

fn shown(path: Option<&Path>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

fn kind(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Quorum => "quorum",
        QueueKind::Classic => "classic",
        QueueKind::Broker => "broker",
    }
}

/// The table of a section's settings, as `docs/guide/configuration.md` must contain it.
#[cfg(test)]
pub(super) fn table(section: &str) -> String {
    let mut table =
        String::from("| key | variable | flag | value | default | meaning |\n|---|---|---|---|---|---|\n");
    for setting in of_section(section) {
        let Setting { key, variable, flag, unit, default, about, .. } = setting;
        let flag = if flag.is_empty() { String::new() } else { format!("`{flag}`") };
        table += &format!("| `{key}` | `{variable}` | {flag} | {unit} | {default} | {about} |\n");
    }
    table
}
