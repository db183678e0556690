//! Delayed messages wait in the broker.

use std::time::{Duration, Instant};

use mq_worker::broker::Publication;
use mq_worker::{Binding, Exchange, ExchangeKind, Queue, Topology};

use super::fixture::{Fixture, SOON, id, next, to};

async fn send(t: &Fixture, delay: Duration, publication: Publication) {
    t.broker.publish(Publication { delay: Some(delay), ..publication }).await.expect("taken");
}

/// Returns the delays of a few messages, sorted.
async fn waits(t: &Fixture, queue: &str, delay: Duration, count: usize) -> Vec<Duration> {
    let mut consumer = t.consume(queue, 1).await;
    let mut waits = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        send(t, delay, to(queue, "delayed")).await;
        let delivery = next(&mut consumer).await;
        waits.push(begun.elapsed());
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), ("", queue));
        assert_eq!(id(&delivery), "delayed");
        assert!(delivery.message.headers.get("x-death").is_none());
        delivery.ack();
    }
    waits.sort_unstable();
    waits
}

#[tokio::test]
async fn a_message_waits_in_the_broker_for_its_time() {
    let Some(t) = Fixture::new().await else { return };
    // The ladders are declared at their first use, which must not be measured.
    let warm = t.queue("warm", |_| {}).await;
    send(&t, Duration::from_millis(1), to(&warm, "i")).await;
    for (n, (delay, due, count)) in
        [(3000, 3000, 1), (300, 300, 5), (1400, 1000, 2), (40, 40, 9), (999, 999, 5)].into_iter().enumerate()
    {
        let queue = t.queue(&format!("a.b.{n}"), |_| {}).await;
        let waits = waits(&t, &queue, Duration::from_millis(delay), count).await;
        eprintln!("a delay of {delay} ms took {waits:?}");
        let due = Duration::from_millis(due);
        assert!(waits[0] >= due, "{delay} ms: {waits:?}");
        // The best of a few, since the machine may be busy.
        assert!(
            waits[0] <= due + Duration::from_millis(if count == 1 { 200 } else { 80 }),
            "{delay} ms: {waits:?}"
        );
    }
    t.end().await;
}

#[tokio::test]
async fn only_the_named_queue_gets_a_delayed_message() {
    let Some(t) = Fixture::new().await else { return };
    let long = t.queue("x", |_| {}).await;
    let tail = "x".to_owned();
    // A queue whose name is the last word of the other queue's name.
    t.broker.declare(&Topology::of_queue(Queue::new(tail.clone()))).await.expect("declared");
    send(&t, Duration::from_millis(20), to(&tail, "short")).await;
    send(&t, Duration::from_millis(20), to(&long, "long")).await;
    let mut consumer = t.consume(&long, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "long");
    delivery.ack();
    let mut consumer = t.consume(&tail, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "short");
    delivery.ack();
    assert!(tokio::time::timeout(Duration::from_millis(300), consumer.next()).await.is_err());
    drop(consumer);
    t.broker.delete_queue(&tail).await.expect("deleted");
    t.end().await;
}

#[tokio::test]
async fn a_delayed_message_to_an_exchange_reaches_whoever_is_bound_to_it() {
    let Some(t) = Fixture::new().await else { return };
    let exchange = t.name("topics");
    let (paid, other) = (t.name("paid"), t.name("other"));
    let bind = |queue: &str, pattern: &str| Binding {
        exchange: exchange.clone(),
        queue: queue.into(),
        routing_key: pattern.into(),
    };
    let topology = Topology {
        exchanges: vec![Exchange {
            auto_delete: true,
            ..Exchange::new(exchange.clone(), ExchangeKind::Topic)
        }],
        queues: vec![Queue::new(paid.clone()), Queue::new(other.clone())],
        bindings: vec![bind(&paid, "order.*.paid"), bind(&paid, "order.#"), bind(&other, "sms.#")],
    };
    t.broker.declare(&topology).await.expect("declared");
    let publication = Publication { exchange: exchange.clone(), ..to("order.eu.paid", "i") };
    send(&t, Duration::from_millis(100), publication.clone()).await;
    // Without a bound queue: this must not block the ladder for others.
    for _ in 0..40 {
        send(
            &t,
            Duration::from_millis(50),
            Publication { routing_key: "nobody".into(), ..publication.clone() },
        )
        .await;
    }
    let mut consumer = t.consume(&paid, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (delivery.exchange.as_str(), delivery.routing_key.as_str()),
        (exchange.as_str(), "order.eu.paid")
    );
    delivery.ack();
    send(&t, Duration::from_millis(50), to(&paid, "behind")).await;
    assert_eq!(id(&next(&mut consumer).await), "behind");
    t.expect_ready(&other, 0).await;
    t.end().await;
}

#[tokio::test]
async fn a_delay_that_cannot_be_is_an_error() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let missing = t.name("missing");
    let delayed = |delay, queue: &str| Publication { delay: Some(delay), ..to(queue, "i") };
    let much = t.broker.capabilities().max_delay + Duration::from_secs(1);
    let error = t.broker.publish(delayed(much, &queue)).await.expect_err("too long");
    assert!(error.is_config(), "{error}");
    let second = Duration::from_secs(1);
    let error = t.broker.publish(delayed(second, &missing)).await.expect_err("no queue");
    assert!(error.is_unroutable() && error.to_string().contains(&missing), "{error}");
    t.end().await;
}

#[tokio::test]
async fn a_message_may_be_delayed_again_and_again() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let mut consumer = t.consume(&queue, 1).await;
    send(&t, Duration::from_millis(30), to(&queue, "i")).await;
    for _ in 0..5 {
        let delivery = tokio::time::timeout(SOON, next(&mut consumer)).await.expect("not dropped as a cycle");
        let again = Publication {
            exchange: delivery.exchange.clone(),
            routing_key: delivery.routing_key.clone(),
            message: delivery.message.clone(),
            mandatory: true,
            delay: None,
        };
        send(&t, Duration::from_millis(30), again).await;
        delivery.ack();
    }
    next(&mut consumer).await.ack();
    t.end().await;
}
