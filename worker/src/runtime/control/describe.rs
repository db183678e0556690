//! Describes tasks, queues, the broker and the settings in the format of Celery's workers.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::app::Config;
use crate::connection::BrokerUrl;
use crate::events::{MAX_TEXT, arguments as printed, text};
use crate::message::Message;
use crate::message::headers::names;
use crate::routing::{Exchange, ExchangeKind, Queue, Topology};
use crate::runtime::admission::reserved::Reserved;
use crate::runtime::execution::running::RunningTask;
use crate::state::State;
use crate::task::Context;
use crate::task::reports::Report;

/// Bodies up to this size are read again to show their arguments as they are.
const SMALL: usize = 1024;

/// How the arguments of a call are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgumentsAs {
    Values,
    /// As text from the sender, who may have hidden some values.
    Text,
    /// Not at all.
    Dots,
}

/// A running task.
pub(super) fn task(node: &str, task: &RunningTask, arguments_as: ArgumentsAs) -> Value {
    let context = &task.context;
    let begun = SystemTime::now()
        .checked_sub(task.since.elapsed())
        .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let (args, kwargs) = match arguments_as {
        ArgumentsAs::Values => arguments(context.message()),
        ArgumentsAs::Text => arguments_in_words(context.message()),
        ArgumentsAs::Dots => (json!("(…)"), json!({})),
    };
    let mut described = json!({
        "id": context.id(),
        "name": context.headers().get_str("shadow").unwrap_or(context.task()),
        "args": args,
        "kwargs": kwargs,
        "type": context.task(),
        "hostname": node,
        "time_start": begun.map(|time| time.as_secs_f64()),
        "acknowledged": task.acknowledged,
        "delivery_info": delivery(context),
        "worker_pid": std::process::id(),
    });
    // Celery's tools ignore keys that they do not know.
    if let Some(report) = context.reports().latest().filter(|report| report.state != State::Started) {
        described["reported"] = reported(&report);
    }
    described
}

fn reported(report: &Report) -> Value {
    let state = report.state.as_str();
    match report.progress() {
        Some(at) => {
            json!({ "state": state, "current": at.current, "total": at.total, "description": at.description })
        }
        None => json!({ "state": state, "description": text(report.meta.get().as_bytes()) }),
    }
}

/// A call that waits for a slot, in Celery's format for one that has not started.
pub(super) fn reserved(node: &str, reserved: &Reserved) -> Value {
    let message = &reserved.message;
    let headers = &message.headers;
    let first = |name: &str, latest: &str| headers.get_str(name).unwrap_or(latest).to_owned();
    let (args, kwargs) = arguments(message);
    let task = headers.task().unwrap_or_default();
    json!({
        "id": message.id(),
        "name": headers.get_str("shadow").unwrap_or(task),
        "args": args,
        "kwargs": kwargs,
        "type": task,
        "hostname": node,
        "time_start": null,
        "acknowledged": false,
        "delivery_info": {
            "exchange": first(names::EXCHANGE, &reserved.exchange),
            "routing_key": first(names::ROUTING_KEY, &reserved.routing_key),
            "priority": message.properties.priority.unwrap_or(0),
            "redelivered": reserved.redelivered,
            "queue": reserved.queue.as_ref(),
        },
        "worker_pid": null,
    })
}

fn delivery(context: &Context) -> Value {
    json!({
        "exchange": context.exchange(),
        "routing_key": context.routing_key(),
        "priority": context.properties().priority.unwrap_or(0),
        "redelivered": context.is_redelivered(),
        "queue": context.queue(),
    })
}

/// The arguments: as values if the message is small, else as the text of the sender.
fn arguments(message: &Message) -> (Value, Value) {
    let body = &message.body;
    if body.len() <= SMALL {
        if !message.is_task() {
            return (json!([String::from_utf8_lossy(body)]), json!({}));
        }
        if let Ok((args, kwargs, _)) = serde_json::from_slice::<(Value, Value, Value)>(body) {
            return (args, if kwargs.is_null() { json!({}) } else { kwargs });
        }
    }
    let words = |name| message.headers.get_str(name).map(|text| text.chars().take(SMALL).collect::<String>());
    let args = words("argsrepr").unwrap_or_else(|| format!("({} bytes)", body.len()));
    (args.into(), words("kwargsrepr").map_or_else(|| json!({}), Value::from))
}

/// The arguments as in the event `task-received`.
fn arguments_in_words(message: &Message) -> (Value, Value) {
    if let Some(args) = message.headers.get_str("argsrepr") {
        return (json!(cut(args)), json!(message.headers.get_str("kwargsrepr").map_or("{…}".into(), cut)));
    }
    if !message.is_task() {
        return (json!("(…)"), json!("{}"));
    }
    let known = printed(&message.body);
    let word = |known: Option<String>| known.unwrap_or_else(|| "…".into());
    (json!(word(known.args)), json!(word(known.kwargs)))
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

/// A consumed queue, with every key that Flower asks for.
pub(super) fn queue(topology: &Topology, name: &str) -> Value {
    let known = topology.queues.iter().find(|queue| queue.name == name);
    let spec = known.cloned().unwrap_or_else(|| Queue::new(name));
    let bindings: Vec<_> = topology.bindings.iter().filter(|binding| binding.queue == name).collect();
    // Celery names the exchange of a direct queue after the queue, though it publishes to the default one.
    let (exchange, routing_key) = match bindings.as_slice() {
        [only] => {
            let exchange = topology.exchanges.iter().find(|exchange| exchange.name == only.exchange);
            let unknown = || Exchange::new(&only.exchange, ExchangeKind::Direct);
            (exchange.cloned().unwrap_or_else(unknown), only.routing_key.as_str())
        }
        _ => (Exchange::new(name, ExchangeKind::Direct), name),
    };
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    json!({
        "name": name,
        "exchange": {
            "name": exchange.name,
            "type": exchange.kind.as_str(),
            "arguments": null,
            "durable": exchange.durable,
            "passive": false,
            "auto_delete": exchange.auto_delete,
            "delivery_mode": null,
            "no_declare": false,
        },
        "routing_key": routing_key,
        "queue_arguments": null,
        "binding_arguments": null,
        "consumer_arguments": null,
        "durable": spec.durable,
        "exclusive": spec.exclusive,
        "auto_delete": spec.auto_delete,
        "no_ack": false,
        "alias": null,
        "bindings": [],
        "no_declare": null,
        "expires": seconds(spec.expires),
        "message_ttl": seconds(spec.message_ttl),
        "max_length": spec.max_length,
        "max_length_bytes": null,
        "max_priority": spec.max_priority,
    })
}

/// The address of the broker, without the password.
pub(super) fn broker(url: &BrokerUrl) -> Value {
    let scheme = url.scheme();
    if !scheme.starts_with("amqp") {
        return json!({
            "hostname": url.to_string(), "userid": null, "virtual_host": "/", "port": null, "ssl": false,
            "transport": scheme,
        });
    }
    let shown = url.to_string();
    let (user, place) = match url.path().rfind('@') {
        Some(at) => (url.path()[..at].split(':').next().unwrap_or_default(), &url.path()[at + 1..]),
        None => ("guest", url.path()),
    };
    // Taking a malformed URL apart could expose its password.
    if !shown.contains("://") {
        return json!({"hostname": shown, "transport": "amqp"});
    }
    let place = place.split('?').next().unwrap_or_default();
    let (address, vhost) = place.split_once('/').unwrap_or((place, ""));
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let host =
        if port.is_some() { address.rsplit_once(':').map_or(address, |(host, _)| host) } else { address };
    let tls = scheme == "amqps";
    json!({
        "hostname": if host.is_empty() { "localhost" } else { host },
        "userid": user,
        "virtual_host": if vhost.is_empty() || vhost.eq_ignore_ascii_case("%2f") { "/" } else { vhost },
        "port": port.unwrap_or(if tls { 5671 } else { 5672 }),
        "ssl": tls,
        "transport": "amqp",
    })
}

/// The settings, flat, without passwords.
pub(super) fn settings(config: &Config) -> Value {
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let worker = &config.worker;
    let kind = serde_json::to_value(config.queue_kind).unwrap_or_default();
    let routes = serde_json::to_value(&config.routes).unwrap_or_default();
    json!({
        "broker_url": config.broker_url.to_string(),
        "result_backend": config.effective_result_backend().to_string(),
        "default_queue": config.default_queue,
        "topic_exchange": config.topic_exchange,
        "queue_kind": kind,
        "publish_timeout": seconds(config.publish_timeout),
        "max_message_size": config.max_message_size,
        "result_expires": seconds(config.result_expires),
        "routes": routes,
        "worker_queues": worker.queues,
        "worker_concurrency": worker.concurrency,
        "worker_prefetch": worker.prefetch,
        "worker_grace": seconds(worker.grace),
        "worker_hostname": worker.full_name(),
        "worker_max_crashes": worker.max_crashes,
        "worker_control": worker.control,
    })
}

/// The resident memory in Celery's format, on systems with `/proc`.
pub(super) fn memory() -> Value {
    let read = || {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
        Some(format!("{:.2}MB", kib / 1024.0))
    };
    read().map_or(Value::Null, Value::from)
}

/// The resource usage of the process, on systems with `/proc`.
pub(super) fn usage() -> Value {
    // Clock ticks of `/proc` are a hundredth of a second on every Linux.
    const TICKS: f64 = 100.0;
    let read = || {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |field: usize| fields.get(field)?.parse::<f64>().ok();
        let count = |field: usize| fields.get(field)?.parse::<u64>().ok();
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        // Reading it may not be permitted.
        let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
        let find = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let mut usage = Map::new();
        usage.insert("utime".into(), json!(number(11)? / TICKS));
        usage.insert("stime".into(), json!(number(12)? / TICKS));
        usage.insert("maxrss".into(), json!(find(&status, "VmHWM:")?));
        for (key, value) in [
            ("minflt", count(7)),
            ("majflt", count(9)),
            ("nvcsw", find(&status, "voluntary_ctxt_switches:")),
            ("nivcsw", find(&status, "nonvoluntary_ctxt_switches:")),
            // In blocks of 512 bytes.
            ("inblock", find(&io, "read_bytes:").map(|bytes| bytes / 512)),
            ("oublock", find(&io, "write_bytes:").map(|bytes| bytes / 512)),
        ] {
            value.into_iter().for_each(|value| drop(usage.insert(key.into(), json!(value))));
        }
        // Linux counts none of these.
        for key in ["idrss", "isrss", "ixrss", "msgrcv", "msgsnd", "nsignals", "nswap"] {
            usage.insert(key.into(), json!(0));
        }
        Some(Value::Object(usage))
    };
    // Flower and Celery treat an empty table as "not known".
    read().unwrap_or_else(|| json!({}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_is_told_without_its_password() {
        for (url, host, user, port, vhost) in [
            ("amqp://guest:hid-den@rabbit:5673/jobs", "rabbit", "guest", 5673, "jobs"),
            ("amqps://u:hid/den@hid@h", "h", "u", 5671, "/"),
            ("amqp://localhost", "localhost", "guest", 5672, "/"),
            ("amqp://u@h:1/%2F?heartbeat=5", "h", "u", 1, "/"),
        ] {
            let described = broker(&url.parse().expect("a URL"));
            assert_eq!(described["hostname"], host, "{described}");
            assert_eq!(described["userid"], user, "{described}");
            assert_eq!(described["port"], port, "{described}");
            assert_eq!(described["virtual_host"], vhost, "{described}");
            assert!(!described.to_string().contains("hid"), "{described}");
        }
        let odd = broker(&"amqp:guest:secret@host".parse().expect("a URL")).to_string();
        assert!(!odd.contains("secret"), "{odd}");
        assert_eq!(broker(&"sqlite:jobs.db".parse().expect("a URL"))["transport"], "sqlite");
    }

    #[test]
    fn settings_hide_the_passwords() {
        let config = Config {
            broker_url: "amqp://guest:hidden@rabbit".parse().expect("a URL"),
            result_backend: Some("sqlite:results.db".parse().expect("a URL")),
            ..Config::default()
        };
        let described = settings(&config);
        assert_eq!(described["broker_url"], "amqp://guest:***@rabbit");
        assert!(!described.to_string().contains("hidden"), "{described}");
    }
}
