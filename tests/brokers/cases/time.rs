//! Delays and expiration.

use std::time::{Duration, Instant};

use mq_worker::broker::Publication;
use mq_worker::{ExchangeKind, Queue};
use serde_json::json;

use super::super::lab::*;

fn delayed(publication: Publication, delay: Duration) -> Publication {
    Publication { delay: Some(delay), ..publication }
}

/// How late a delayed message may arrive. RabbitMQ's delays are whole seconds.
fn late(lab: &Lab) -> Duration {
    if lab.kind.is_rabbitmq() { Duration::from_millis(2500) } else { Duration::from_millis(400) }
}

/// A queue and the queue for its dead letters.
fn with_dead_letters(lab: &Lab, queue: Queue) -> [Queue; 2] {
    let dead = lab.name("dead");
    [
        Queue::new(&dead),
        Queue { dead_letter_exchange: Some(String::new()), dead_letter_routing_key: Some(dead), ..queue },
    ]
}

pub(crate) async fn a_delayed_message_comes_when_it_is_due(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    // The first delay may declare queues at the broker, which takes time.
    publish(&broker, delayed(to(&queue, "warm-up"), Duration::from_millis(1))).await;
    expect_bodies(&mut consumer, &["warm-up"]).await;
    for delay in [Duration::from_millis(1200), Duration::from_millis(2000)] {
        let begin = Instant::now();
        publish(&broker, delayed(to(&queue, "later"), delay)).await;
        if let Some(waiting) = info(&broker, &queue).await.expect("it exists").delayed {
            assert_eq!(waiting, 1);
        }
        assert_eq!(info(&broker, &queue).await.expect("it exists").ready, 0, "it is not ready");
        let delivery = next(&mut consumer).await;
        let took = begin.elapsed();
        assert_eq!((body(&delivery).as_str(), delivery.redelivered), ("later", false));
        delivery.ack();
        let early = broker.capabilities().max_early;
        assert!(took + early >= delay, "due after {delay:?}, it came after {took:?}");
        if delay.subsec_nanos() == 0 {
            assert!(took >= delay, "whole seconds are kept everywhere, it came after {took:?}");
        }
        assert!(took <= delay + late(lab), "due after {delay:?}, it came after {took:?}");
    }
}

pub(crate) async fn a_short_delay_is_not_held_up_by_a_long_one(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for (body, seconds) in [("third", 5), ("second", 3), ("first", 1)] {
        publish(&broker, delayed(to(&queue, body), Duration::from_secs(seconds))).await;
    }
    publish(&broker, to(&queue, "now")).await;
    let mut consumer = consume(&broker, &[&queue], 5).await;
    let begin = Instant::now();
    expect_bodies(&mut consumer, &["now", "first", "second"]).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "the long delay held up the others");
    expect_bodies(&mut consumer, &["third"]).await;
}

pub(crate) async fn a_delay_goes_through_exchanges_too(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Fanout, &[("a", ""), ("b", "")]).await;
    let begin = Instant::now();
    publish(&broker, delayed(via(&exchange, "key", "later"), Duration::from_secs(1))).await;
    for queue in ["a", "b"] {
        let mut consumer = consume(&broker, &[&lab.name(queue)], 1).await;
        expect_bodies(&mut consumer, &["later"]).await;
        assert!(begin.elapsed() >= Duration::from_secs(1), "{queue}");
    }
    let nowhere = delayed(to(&lab.name("nothing"), "lost"), Duration::from_secs(1));
    assert!(refused(&broker, nowhere).await.is_unroutable(), "a delay is no excuse");
}

pub(crate) async fn a_delayed_message_arrives_with_its_own_address(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &[("work", "order.*")]).await;
    let queue = lab.name("work");
    let mut straight = delayed(to(&queue, "straight"), Duration::from_millis(500));
    straight.message.headers.set("mine", json!({"n": 1}));
    let sent = straight.message.clone();
    publish(&broker, straight).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((delivery.exchange.as_str(), &delivery.routing_key), ("", &queue));
    assert_eq!(delivery.message.headers.get("mine"), sent.headers.get("mine"));
    assert_eq!(delivery.message.properties, sent.properties);
    let names: Vec<&str> = delivery.message.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["mine"], "no trace of the way it took: sent on, it would look like a cycle");
    delivery.ack();
    publish(&broker, delayed(via(&exchange, "order.paid", "around"), Duration::from_millis(500))).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.routing_key.as_str()),
        (exchange.as_str(), "order.paid")
    );
    delivery.ack();
}

pub(crate) async fn a_message_that_waited_too_long_is_dead_lettered(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("hasty");
    let hasty = Queue { message_ttl: Some(Duration::from_millis(300)), ..Queue::new(&queue) };
    declare(&broker, with_dead_letters(lab, hasty)).await;
    let mut publication = to(&queue, "too late");
    publication.message.headers.set("mine", "kept");
    publish(&broker, publication).await;
    let mut consumer = consume(&broker, &[&lab.name("dead")], 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(body(&delivery), "too late");
    assert_eq!(delivery.message.headers.get_str("mine"), Some("kept"));
    delivery.ack();
    assert!(drain(&broker, &queue).await.is_empty());
    // A message taken in time does not expire.
    publish(&broker, to(&queue, "in time")).await;
    let held = broker.get(&queue).await.expect("an answer").expect("it is there");
    tokio::time::sleep(Duration::from_millis(500)).await;
    held.ack();
    expect_nothing(&mut consumer).await;
}

pub(crate) async fn a_message_with_an_expiration_is_dropped(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let mut soon = to(&queue, "stale");
    soon.message.properties.expiration = Some(Duration::from_millis(200));
    publish(&broker, soon).await;
    let mut later = to(&queue, "fresh");
    later.message.properties.expiration = Some(Duration::from_secs(600));
    publish(&broker, later).await;
    expect_ready(&broker, &queue, 1).await;
    let mut consumer = consume(&broker, &[&queue], 2).await;
    expect_bodies(&mut consumer, &["fresh"]).await;
    expect_nothing(&mut consumer).await;
}

pub(crate) async fn a_message_with_an_expiration_is_dead_lettered(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("hasty");
    declare(&broker, with_dead_letters(lab, Queue::new(&queue))).await;
    let mut publication = to(&queue, "too late");
    publication.message.properties.expiration = Some(Duration::from_millis(200));
    publish(&broker, publication).await;
    let mut consumer = consume(&broker, &[&lab.name("dead")], 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(body(&delivery), "too late");
    assert_eq!(delivery.message.properties.expiration, None, "else it would die again where it lies now");
    delivery.ack();
}
