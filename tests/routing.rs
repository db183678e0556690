//! Compares our matching of bindings with RabbitMQ's own, for thousands of random bindings and keys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind as Kind};
use mq_worker::routing::topology::route;
use mq_worker::{Binding, Exchange, ExchangeKind, topic_matches};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use support::{shared, unique, within};

const LIMIT: Duration = Duration::from_secs(120);

/// Only a few words, so that many patterns match; including empty words and ones that look like wildcards.
fn words(wild: bool) -> impl Strategy<Value = String> {
    let word = move || {
        let plain =
            prop_oneof![3 => Just("a"), 2 => Just("b"), 1 => Just("ab"), 1 => Just(""), 1 => Just("é")];
        let sign = prop_oneof![Just("*"), Just("#")];
        // In a key the wildcards are ordinary words.
        (plain, sign, 0..10_u8).prop_map(
            move |(plain, sign, dice)| {
                if dice < if wild { 5 } else { 1 } { sign } else { plain }
            },
        )
    };
    proptest::collection::vec(word(), 0..6).prop_map(|words| words.join("."))
}

/// Returns distinct texts, the same in every run.
fn texts(wild: bool, count: usize) -> Vec<String> {
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let mut texts: BTreeSet<String> = ["", "#", "*", "a", ".", "a.", ".a"].map(ToOwned::to_owned).into();
    let strategy = words(wild);
    while texts.len() < count {
        texts.insert(strategy.new_tree(&mut runner).expect("a text").current());
    }
    texts.into_iter().collect()
}

/// Splits into words; the empty text has none.
fn split(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

/// The documented rule, slow and obviously right: for comparing without a RabbitMQ.
fn matches_plainly(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((&"#", pattern)), _) => (0..=key.len()).any(|skip| matches_plainly(pattern, &key[skip..])),
        (Some((word, pattern)), Some((first, key))) => {
            (*word == "*" || word == first) && matches_plainly(pattern, key)
        }
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_pattern_matches_what_the_plain_rule_says(pattern in words(true), key in words(false)) {
        prop_assert_eq!(topic_matches(&pattern, &key), matches_plainly(&split(&pattern), &split(&key)));
    }

    #[test]
    fn any_texts_may_be_compared(pattern in ".*", key in ".*") {
        let _ = topic_matches(&pattern, &key);
        prop_assert!(topic_matches("#", &key));
        if !key.split('.').any(|word| word == "*" || word == "#") {
            prop_assert!(topic_matches(&key, &key));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_match_as_in_rabbitmq() {
    compare(Kind::Topic, ExchangeKind::Topic, texts(true, 200), texts(false, 2000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_keys_match_as_in_rabbitmq() {
    // Patterns too: a direct exchange compares them literally.
    compare(Kind::Direct, ExchangeKind::Direct, texts(true, 100), texts(true, 400)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fanout_copies_as_in_rabbitmq() {
    compare(Kind::Fanout, ExchangeKind::Fanout, texts(true, 20), texts(false, 50)).await;
}

/// Publishes every key to an exchange with one queue per pattern, and compares the arrivals with our own matching.
async fn compare(theirs: Kind, ours: ExchangeKind, patterns: Vec<String>, keys: Vec<String>) {
    let Some(rabbitmq) = shared::rabbitmq(file!()) else { return };
    let connect = Connection::connect(&rabbitmq.url, ConnectionProperties::default());
    let connection = within("connect", LIMIT, connect).await.expect("RabbitMQ is there");
    let channel = connection.create_channel().await.expect("a channel");
    let exchange = unique("routing");
    let name = |text: &str| ShortString::try_new(text).expect("a short name");
    channel
        .exchange_declare(name(&exchange), theirs, ExchangeDeclareOptions::default(), FieldTable::default())
        .await
        .expect("an exchange");
    let mut consumers = Vec::new();
    let mut bindings = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        let queue = format!("{exchange}-{index}");
        let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(name(&queue), exclusive, FieldTable::default()).await.expect("a queue");
        let mut keys = vec![pattern.clone()];
        // Some queues have two bindings, which must not cause two copies.
        if index % 5 == 0 {
            keys.push(patterns[(index + 1) % patterns.len()].clone());
        }
        for key in keys {
            let bind = channel.queue_bind(
                name(&queue),
                name(&exchange),
                name(&key),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bind.await.expect("a binding");
            bindings.push(Binding { exchange: exchange.clone(), queue: queue.clone(), routing_key: key });
        }
        let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel
            .basic_consume(name(&queue), name(&queue), no_ack, FieldTable::default())
            .await
            .expect("a consumer");
        consumers.push((queue, consumer));
    }
    publish_all(&channel, &exchange, &keys).await;
    // A final message directly to every queue: everything routed before has arrived before it.
    for (queue, _) in &consumers {
        let end = channel.basic_publish(
            ShortString::default(),
            name(queue),
            BasicPublishOptions::default(),
            b"end",
            BasicProperties::default(),
        );
        end.await.expect("published").await.expect("confirmed");
    }

    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (queue, mut consumer) in consumers {
        let bodies = arrived.entry(queue).or_default();
        loop {
            let delivery = within("a delivery", LIMIT, consumer.next()).await.expect("the stream goes on");
            let delivery = delivery.expect("a delivery");
            if delivery.exchange.as_str().is_empty() {
                break;
            }
            bodies.push(delivery.routing_key.to_string());
        }
    }
    let mut said: BTreeMap<String, Vec<String>> =
        arrived.keys().map(|queue| (queue.clone(), Vec::new())).collect();
    let exchanges = [Exchange::new(&exchange, ours)];
    for key in &keys {
        for queue in route(&exchanges, &bindings, &exchange, key).expect("the exchange is there") {
            said.get_mut(queue).expect("a queue of ours").push(key.clone());
        }
    }
    let total: usize = said.values().map(Vec::len).sum();
    assert!(total > keys.len() / 10, "only {total} copies: this compares nothing");
    let differences: Vec<_> = said
        .iter()
        .flat_map(|(queue, ours)| {
            let patterns: Vec<&str> = bindings
                .iter()
                .filter(|binding| binding.queue == *queue)
                .map(|binding| binding.routing_key.as_str())
                .collect();
            let theirs = &arrived[queue];
            let only_ours = ours.iter().filter(|key| !theirs.contains(key)).map(|key| ("only we", key));
            let only_theirs =
                theirs.iter().filter(|key| !ours.contains(key)).map(|key| ("only RabbitMQ", key));
            only_ours.chain(only_theirs).map(move |(who, key)| format!("{who}: {patterns:?} takes {key:?}"))
        })
        .collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(said, arrived, "copies or their order differ");

    let delete = channel.exchange_delete(name(&exchange), ExchangeDeleteOptions::default());
    delete.await.expect("the exchange is deleted");
    connection.close(200, "done".into()).await.expect("closed");
}

async fn publish_all(channel: &Channel, exchange: &str, keys: &[String]) {
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    let mut confirms = Vec::new();
    for key in keys {
        let publish = channel.basic_publish(
            ShortString::try_new(exchange).expect("a short name"),
            ShortString::try_new(key.as_str()).expect("a short key"),
            BasicPublishOptions::default(),
            key.as_bytes(),
            BasicProperties::default(),
        );
        confirms.push(publish.await.expect("published"));
    }
    for confirm in confirms {
        within("a confirm", LIMIT, confirm).await.expect("confirmed");
    }
}

#[test]
fn every_queue_has_a_dead_letter_queue_of_its_own_that_a_broker_can_have() {
    assert_eq!(mq_worker::Queue::dead_letter_name("email"), "email.dead");
    let names = ["a", "é", "ab", "aé"].map(|end| format!("{}{end}", "xé".repeat(84)));
    let dead = names.map(|name| mq_worker::Queue::dead_letter_name(&name));
    for (index, name) in dead.iter().enumerate() {
        assert!(name.ends_with(".dead") && name.len() <= 255, "{name}");
        assert!(!dead[..index].contains(name), "{name}");
    }
}
