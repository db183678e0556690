//! Parses values: one function for each kind of setting, shared by file, environment and command line.
//!
//! Each error completes a sentence that starts with the name of the setting: "expected …".

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Prefetch;
use crate::connection::BrokerUrl;
use crate::connection::url::redact;
use crate::message::ResultTypes;
use crate::routing::QueueKind;
use crate::routing::names::check_name;

/// The limit of concurrency and prefetch: a prefetch count has 16 bits on the wire, and by default equals the concurrency.
const MOST_AT_ONCE: u64 = 65_535;

/// Why a value was refused, and what was expected.
pub(crate) type Problem = String;

/// The text as written, without any password.
pub(crate) fn shown(text: &str) -> String {
    shortened(if looks_like_an_address(text) { redact(text.trim()) } else { text.to_owned() })
}

/// The same for a setting that is an address, always redacted: `user:password` alone does not look like one.
pub(crate) fn redacted_address(text: &str) -> String {
    shortened(redact(text.trim()))
}

/// True if the text may hold a password.
pub(crate) fn looks_like_an_address(text: &str) -> bool {
    text.contains('@') || text.contains("://") || text.trim_start().to_ascii_lowercase().starts_with("amqp")
}

fn shortened(text: String) -> String {
    if text.chars().count() <= 80 {
        return text;
    }
    text.chars().take(80).chain(['…']).collect()
}

/// `10s`, `1m 30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, Problem> {
    if text.trim_start().starts_with('-') {
        return Err("expected a duration that is not negative, such as `30s`".into());
    }
    humantime::parse_duration(text.trim())
        .map_err(|_| "expected a duration with its unit, such as `30s`, `5m` or `1h 30m`".into())
}

/// A duration above zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Problem> {
    match duration(text)? {
        Duration::ZERO => Err("expected a duration above zero, such as `30s`".into()),
        duration => Ok(duration),
    }
}

/// `16MiB`, `500 kB`, `1000`: bytes.
pub(crate) fn size(text: &str) -> Result<usize, Problem> {
    let expected = || Problem::from("expected a size above zero, such as `16MiB`, `500kB` or `65536`");
    let text = text.trim().replace('_', "");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: usize = text[..digits].parse().map_err(|_| expected())?;
    let unit: usize = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err(expected()),
    };
    number.checked_mul(unit).filter(|bytes| *bytes > 0).ok_or_else(expected)
}

fn whole(text: &str, most: u64) -> Result<u64, Problem> {
    let number = text.trim().parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("expected a whole number from 1 to {most}"))
}

/// How many tasks run at once.
pub(crate) fn concurrency(text: &str) -> Result<usize, Problem> {
    whole(text, MOST_AT_ONCE).map(|number| usize::try_from(number).expect("a usize has 16 bits"))
}

/// How many messages may be reserved. 0 would mean "no limit" to RabbitMQ, and a worker without a limit hoards.
pub(crate) fn prefetch(text: &str) -> Result<Prefetch, Problem> {
    if text.trim() == "auto" {
        return Ok(Prefetch::Auto);
    }
    let number = whole(text, MOST_AT_ONCE).map_err(|expected| format!("{expected}, or `auto`"))?;
    Ok(Prefetch::Fixed(u16::try_from(number).expect("the limit fits")))
}

/// A count of at least one.
pub(crate) fn count(text: &str) -> Result<u32, Problem> {
    whole(text, u32::MAX.into()).map(|number| u32::try_from(number).expect("the limit fits"))
}

/// On or off.
pub(crate) fn switch(text: &str) -> Result<bool, Problem> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("expected true or false".into()),
    }
}

/// The name of a queue.
pub(crate) fn queue(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    match check_name("queue", name) {
        Ok(()) => Ok(name.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// `email,sms`.
pub(crate) fn queues(text: &str) -> Result<Vec<String>, Problem> {
    text.split(',')
        .map(|name| queue(name).map_err(|_| "expected queue names separated by commas: `email,sms`".into()))
        .collect()
}

/// The name of an exchange.
pub(crate) fn exchange(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    check_name("exchange", name).map_err(|error| error.to_string())?;
    Ok(name.to_owned())
}

/// The kind of queue.
pub(crate) fn queue_kind(text: &str) -> Result<QueueKind, Problem> {
    match text.trim() {
        "quorum" => Ok(QueueKind::Quorum),
        "classic" => Ok(QueueKind::Classic),
        "broker" => Ok(QueueKind::Broker),
        _ => Err("expected quorum, classic or broker".into()),
    }
}

/// How values in results are written.
pub(crate) fn result_types(text: &str) -> Result<ResultTypes, Problem> {
    match text.trim() {
        "json" => Ok(ResultTypes::Json),
        "kombu" => Ok(ResultTypes::Kombu),
        _ => Err("expected json or kombu".into()),
    }
}

/// The worker's name.
pub(crate) fn hostname(text: &str) -> Result<String, Problem> {
    let name = text.trim();
    if name.is_empty() || name.len() > 200 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("expected a name without spaces, such as `mail-1` or `mail-1@%h`".into());
    }
    Ok(name.to_owned())
}

/// An address to listen on.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Problem> {
    let expected = "expected an IP address and a port, such as `0.0.0.0:9000` or `[::]:9000`";
    text.trim().parse().map_err(|_| expected.into())
}

/// The path of a file.
pub(crate) fn path(text: &str) -> Result<PathBuf, Problem> {
    if text.trim().is_empty() { Err("expected the path of a file".into()) } else { Ok(text.into()) }
}

/// The broker's address; this build must support its scheme.
pub(crate) fn broker(text: &str) -> Result<BrokerUrl, Problem> {
    let url = url(text, "memory")?;
    let needs = match url.scheme().as_str() {
        "amqp" | "amqps" => Some(("amqp", cfg!(feature = "amqp"))),
        "sqlite" => Some(("sqlite", cfg!(feature = "sqlite"))),
        "memory" => None,
        _ => return Err("expected amqp://HOST, amqps://HOST, sqlite:PATH or memory://".into()),
    };
    built_in(needs).map(|()| url)
}

/// The result backend's address; this build must support its scheme.
pub(crate) fn result_backend(text: &str) -> Result<BrokerUrl, Problem> {
    let url = url(text, "rpc, none, memory")?;
    let needs = match url.scheme().as_str() {
        "rpc" => Some(("amqp", cfg!(feature = "amqp"))),
        "sqlite" => Some(("sqlite", cfg!(feature = "sqlite"))),
        "redis" | "rediss" | "sentinel" | "sentinels" => Some(("redis", cfg!(feature = "redis"))),
        "postgres" | "postgresql" => Some(("postgres", cfg!(feature = "postgres"))),
        "memory" | "none" => None,
        _ => {
            return Err("expected rpc://, redis://HOST, rediss://HOST, sentinel://HOST, postgres://HOST/DB, sqlite:PATH, memory:// or \
                        none"
                .into());
        }
    };
    built_in(needs).map(|()| url)
}

/// The address of RabbitMQ's management API.
pub(crate) fn management(text: &str) -> Result<BrokerUrl, Problem> {
    let expected = "expected the address of RabbitMQ's management API, such as http://localhost:15672";
    let url: BrokerUrl = text.trim().parse().map_err(|_| expected)?;
    let has_host = !matches!(url.authority().chars().next(), None | Some(':'));
    let is_http = matches!(url.scheme().as_str(), "http" | "https") && url.expose().contains("://");
    if is_http && has_host { Ok(url) } else { Err(expected.into()) }
}

/// A URL; the schemes in `bare` may be written as one word.
fn url(text: &str, bare: &str) -> Result<BrokerUrl, Problem> {
    let text = text.trim();
    let full = if bare.split(", ").any(|word| word == text) { format!("{text}://") } else { text.to_owned() };
    full.parse().map_err(|_| "expected a URL such as amqp://localhost or sqlite:jobs.db".into())
}

fn built_in(needs: Option<(&str, bool)>) -> Result<(), Problem> {
    match needs {
        Some((feature, false)) => {
            Err(format!("this build has no `{feature}`: build mq-worker with the feature `{feature}`"))
        }
        _ => Ok(()),
    }
}
