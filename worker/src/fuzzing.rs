//! Invariants that must hold for any input, however hostile: each function takes arbitrary bytes and panics if one is
//! broken.
//!
//! `fuzz/` searches for such bytes; the tests replay its earlier findings and a few seeds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::app::Subscriptions;
use crate::app::config::{Config, value};
use crate::broker::{Delivery, Settle, Settlement, Verdict};
use crate::connection::amqp::address::Address;
use crate::connection::amqp::{codec, properties};
use crate::connection::sqlite::head;
use crate::connection::{BrokerUrl, TlsOptions};
use crate::error::Result;
use crate::message::{Body, Message, history};
use crate::routing::matching::topic_matches;
use crate::routing::names::{check_key, check_name};
use crate::runtime::admission::gate::{Admission, Gate};
use crate::runtime::admission::quarantine::verdict;
use crate::task::{Context, Registry, SharedState, TaskEntry, TaskOptions, Work};

/// The message size limit of the worker under test.
const LARGEST: usize = 64 * 1024;

/// A message as stored in SQLite: the head, a line break, the body. It is decoded, admitted by a worker, and encoded
/// in both brokers' formats.
pub fn message(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, body) = data.split_at(end);
    let body = Bytes::copy_from_slice(body.get(1..).unwrap_or_default());
    let message = head::decode(std::str::from_utf8(first).ok(), body.clone());
    assert_eq!(message.body, body, "the body is kept, whatever the head says");
    assert_eq!(
        head::decode(head::encode(&message).as_deref(), body),
        message,
        "it is written as it was read"
    );
    sent_over_amqp(&message);
    history::read(&message.headers);
    admitted(message);
}

/// The encoded properties of a message from RabbitMQ.
pub fn amqp(data: &[u8]) {
    let mut mended = data.to_vec();
    if properties::mend_properties(&mut mended).is_ok() {
        let (rest, properties) =
            lapin::protocol::basic::parse_properties(&mended[..]).expect("what was mended can be read");
        assert!(rest.is_empty());
        let message = codec::from_amqp(&properties, b"[[],{},{}]".to_vec());
        sent_over_amqp(&message);
        let written = head::encode(&message);
        let again = head::decode(written.as_deref(), message.body.clone());
        assert_eq!(again.properties, message.properties);
        admitted(message);
    }
}

/// Checks the AMQP round trip. Only the second one must be exact: the first may round numbers and drop traces.
fn sent_over_amqp(message: &Message) {
    let Ok(properties) = codec::to_amqp(message) else { return };
    let once = codec::from_amqp(&properties, message.body.to_vec());
    let properties = codec::to_amqp(&once).expect("what came over AMQP can go over it again");
    assert_eq!(codec::from_amqp(&properties, message.body.to_vec()), once);
}

/// Passes the message through a worker's admission, without running it.
fn admitted(message: Message) {
    struct Nobody;

    impl Settle for Nobody {
        fn settle(&self, _: u64, _: Verdict) {}
    }

    let gate = Gate {
        registry: Registry::from_entries([&ANY]).expect("one task"),
        subscriptions: Subscriptions::default(),
        shared: SharedState::default(),
        cold: CancellationToken::new(),
        result_types: Default::default(),
        max_message_size: LARGEST,
        max_crashes: 3,
        isolates: false,
        quarantines_in_process: false,
        revocations: Arc::default(),
        pauses: Arc::default(),
        limits: Arc::default(),
        broker_counts_crashes: message.body.len().is_multiple_of(2),
        tolerance: std::time::Duration::ZERO,
    };
    let delivery = Delivery {
        message,
        queue: "queue".into(),
        exchange: String::new(),
        routing_key: "queue".into(),
        redelivered: false,
        crashes: None,
        settlement: Settlement::new(1, Arc::new(Nobody)),
    };
    let verdict = verdict(&gate.crash_facts(&delivery), false);
    let now = DateTime::<Utc>::from_timestamp(1_900_000_000, 0).expect("a time");
    if let Admission::Run(request, ..) = gate.admit(delivery, verdict, now) {
        let message = request.context.message();
        assert!(message.body.len() <= LARGEST, "no more is run than is allowed");
        assert!(request.plain || Body::parse(&message.body).is_ok());
    }
}

/// The task of the admitted messages: `a` is any value, `b` an optional number.
static ANY: TaskEntry = TaskEntry {
    name: "t",
    options: TaskOptions::DEFAULT,
    parameters: &["a", "b"],
    signature: "a, b",
    doc: "",
    file: file!(),
    line: line!(),
    start: |_: Context, mut arguments| {
        let _ = arguments.take::<Value>("a")?;
        let _ = arguments.take::<Option<f64>>("b")?;
        arguments.finish(&["a", "b"])?;
        Ok(Work::blocking(|| Ok(Vec::new())))
    },
};

/// A topic pattern and a routing key, separated by a line break: the matcher must agree with the definition.
pub fn topic(data: &[u8]) {
    /// The limit for the comparison: the definition takes exponential time.
    const WORDS: usize = 8;

    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=key.len()).any(|skipped| matches(rest, &key[skipped..])),
            (["*", pattern @ ..], [_, key @ ..]) => matches(pattern, key),
            ([word, pattern @ ..], [same, key @ ..]) if word == same => matches(pattern, key),
            _ => false,
        }
    }

    let Some((pattern, key)) = std::str::from_utf8(data).ok().and_then(|text| text.split_once('\n')) else {
        return;
    };
    let split =
        |text| -> Vec<&str> { if str::is_empty(text) { Vec::new() } else { text.split('.').collect() } };
    let (patterns, keys) = (split(pattern), split(key));
    let matched = topic_matches(pattern, key);
    if patterns.len() <= WORDS && keys.len() <= WORDS {
        assert_eq!(matched, matches(&patterns, &keys), "{pattern:?} {key:?}");
    }
    let _ = (check_key(key), check_name("queue", key));
}

/// A broker address. However malformed it is, its password is not shown.
pub fn address(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (value::broker(text), value::result_backend(text), value::shown(text));
    let Ok(url) = text.parse::<BrokerUrl>() else { return };
    let _ = (url.scheme(), url.path());
    let shown = format!("{url} {url:?}");
    match Address::new(&url, &TlsOptions::default()) {
        Ok(address) => {
            assert!(!address.uri.authority.host.is_empty() && address.uri.vhost.len() <= 255);
            no_password(&address.shown, &url);
        }
        Err(error) => no_password(&format!("{error:#} {error:?}"), &url),
    }
    no_password(&shown, &url);
}

/// Asserts that the password, from the first colon to the last `@`, is not shown.
fn no_password(shown: &str, url: &BrokerUrl) {
    let secret = url
        .expose()
        .split_once("://")
        .and_then(|(_, rest)| rest.rsplit_once('@'))
        .and_then(|(user, _)| user.split_once(':'))
        .map(|(_, secret)| secret);
    // Other passwords may occur in the text by chance; the surrounding text has no digits.
    let is_telling = |secret: &&str| {
        secret.len() >= 8
            && secret.chars().all(|c| c.is_ascii_alphanumeric())
            && secret.contains(|c: char| c.is_ascii_digit())
            && url.expose().matches(secret).count() == 1
    };
    if let Some(secret) = secret.filter(is_telling) {
        assert!(!shown.contains(secret), "{shown:?} shows {secret:?}");
    }
}

/// A configuration file, a NUL, and lines `NAME=VALUE` for the environment.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, environment) = text.split_once('\0').unwrap_or((text, ""));
    let variables: BTreeMap<String, OsString> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (format!("MQ_{name}"), value.into()))
        .collect();
    let loaded: Result<Config> = Config::from_texts(file, variables);
    match loaded {
        Ok(config) => {
            assert!(config.max_message_size > 0 && config.worker.concurrency > 0);
            let _ = (config.effective_result_backend(), config.topology.validate());
        }
        Err(error) => assert!(error.is_config() && !error.to_string().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    type Target = fn(&[u8]);

    /// Replays the findings of `cargo fuzz`, and the seeds.
    #[test]
    fn what_was_found_by_fuzzing_holds() {
        let targets: [(&str, Target); 5] = [
            ("message", super::message),
            ("amqp", super::amqp),
            ("topic", super::topic),
            ("address", super::address),
            ("config", super::config),
        ];
        for (name, target) in targets {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
            let files = std::fs::read_dir(&directory)
                .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
            let mut count = 0;
            for file in files {
                let path = file.expect("an entry").path();
                // Shown when the test fails.
                eprintln!("{}", path.display());
                target(&std::fs::read(&path).expect("a file"));
                count += 1;
            }
            assert!(count > 3, "{name} has hardly any");
        }
    }
}
