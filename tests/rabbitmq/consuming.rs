//! Deliveries to a consumer, and the effect of settling them.

use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::broker::{Delivery, Subscription};
use mq_worker::message::{Message, Properties};
use mq_worker::{Queue, QueueKind, Topology};

use super::fixture::{Fixture, SOON, id, next, to, until};

#[tokio::test]
async fn acked_ones_are_gone_and_the_others_come_again() {
    let Some(t) = Fixture::new().await else { return };
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = t.queue(&format!("{kind:?}"), |queue| queue.kind = Some(kind)).await;
        for n in 0..1000 {
            t.send(&queue, &n.to_string()).await.expect("taken");
        }
        let mut consumer = t.consume(&queue, 1000).await;
        let mut kept = Vec::new();
        let mut expected = Vec::new();
        for n in 0..1000 {
            let delivery = next(&mut consumer).await;
            assert_eq!((id(&delivery), delivery.redelivered), (n.to_string(), false));
            // Leave unsettled gaps of several sizes, and the very first message.
            if n == 0 || n % 7 == 3 || (500..520).contains(&n) {
                expected.push(n.to_string());
                kept.push(delivery);
            } else {
                delivery.ack();
            }
        }
        let control = consumer.control();
        control.cancel().await;
        control.flush().await;
        assert!(tokio::time::timeout(SOON, consumer.next()).await.expect("it ends").is_none());
        kept.into_iter().rev().for_each(Delivery::requeue);
        until("all are back", || async { t.ready(&queue).await == expected.len() as u64 }).await;
        let mut consumer = t.consume(&queue, 1000).await;
        let mut back = Vec::new();
        for _ in 0..expected.len() {
            let delivery = next(&mut consumer).await;
            assert!(delivery.redelivered);
            back.push(id(&delivery));
            delivery.ack();
        }
        back.sort_by_key(|id| id.parse::<u32>().expect("a number"));
        assert_eq!(back, expected, "{kind:?}");
        consumer.control().flush().await;
        t.expect_ready(&queue, 0).await;
    }
    t.end().await;
}

/// A quorum queue holds acks back in the channel while it has many others to write; they would be lost with the channel.
#[tokio::test]
async fn many_single_acks_before_the_end_of_a_consumer_all_count() {
    const MESSAGES: u64 = 200;
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("quorum", |queue| queue.kind = Some(QueueKind::Quorum)).await;
    for _ in 0..6 {
        let sent = join_all((0..MESSAGES).map(|n| {
            let (t, queue) = (&t, &queue);
            async move { t.send(queue, &n.to_string()).await }
        }));
        assert!(sent.await.iter().all(Result::is_ok));
        let mut consumer = t.consume(&queue, MESSAGES as u16).await;
        let (mut evens, mut odds) = (Vec::new(), Vec::new());
        for n in 0..MESSAGES {
            let delivery = next(&mut consumer).await;
            if n % 2 == 0 { evens.push(delivery) } else { odds.push(delivery) }
        }
        let control = consumer.control();
        control.cancel().await;
        // No two are adjacent, so each is acked separately.
        odds.into_iter().for_each(Delivery::ack);
        tokio::time::sleep(Duration::from_millis(2)).await;
        evens.into_iter().for_each(Delivery::ack);
        control.flush().await;
        assert!(tokio::time::timeout(SOON, consumer.next()).await.expect("it ends").is_none());
        // Messages whose acks did not reach the queue come back soon after the channel is closed.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(t.ready(&queue).await, 0);
    }
    t.end().await;
}

/// The same for messages taken one by one, when the broker is closed.
#[tokio::test]
async fn many_acks_before_a_broker_is_closed_all_count() {
    const MESSAGES: u64 = 200;
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("quorum", |queue| queue.kind = Some(QueueKind::Quorum)).await;
    for _ in 0..3 {
        let sent = join_all((0..MESSAGES).map(|n| {
            let (t, queue) = (&t, &queue);
            async move { t.send(queue, &n.to_string()).await }
        }));
        assert!(sent.await.iter().all(Result::is_ok));
        let other = Fixture::alone(&t.url).await;
        let mut taken = Vec::new();
        while let Some(delivery) = other.broker.get(&queue).await.expect("an answer") {
            taken.push(delivery);
        }
        assert_eq!(taken.len() as u64, MESSAGES);
        taken.into_iter().for_each(Delivery::ack);
        other.end().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(t.ready(&queue).await, 0);
    }
    t.end().await;
}

#[tokio::test]
async fn a_slow_task_does_not_hold_up_the_acks_of_the_others() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    for n in 0..200 {
        t.send(&queue, &n.to_string()).await.expect("taken");
    }
    // With a prefetch of 100, the second hundred arrives only if acks behind the slow one are sent.
    let mut consumer = t.consume(&queue, 100).await;
    let slow = next(&mut consumer).await;
    for _ in 1..200 {
        next(&mut consumer).await.ack();
    }
    slow.ack();
    consumer.control().flush().await;
    drop(consumer);
    until("the queue has no consumer", || async {
        t.broker.queues(std::slice::from_ref(&queue)).await.is_ok_and(|found| found[0].consumers == 0)
    })
    .await;
    t.expect_ready(&queue, 0).await;
    t.end().await;
}

#[tokio::test]
async fn buffered_deliveries_are_requeued_when_the_consumer_is_cancelled() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    for n in 0..50 {
        t.send(&queue, &n.to_string()).await.expect("taken");
    }
    let mut consumer = t.consume(&queue, 20).await;
    let first = next(&mut consumer).await;
    consumer.control().cancel().await;
    first.ack();
    drop(consumer);
    until("49 are back", || async { t.ready(&queue).await == 49 }).await;
    t.end().await;
}

#[tokio::test]
async fn a_dropped_delivery_comes_again() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "i").await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert!(again.redelivered);
    again.ack();
    t.end().await;
}

#[tokio::test]
async fn one_consumer_serves_many_queues_each_with_its_own_prefetch() {
    let Some(t) = Fixture::new().await else { return };
    let (a, b) = (t.queue("a", |_| {}).await, t.queue("b", |_| {}).await);
    for n in 0..5 {
        t.send(&a, &format!("a{n}")).await.expect("taken");
        t.send(&b, &format!("b{n}")).await.expect("taken");
    }
    let subscription =
        Subscription { queues: vec![a.clone(), b.clone()], prefetch: 2, name: "é".repeat(300) };
    let mut consumer = t.broker.consume(subscription).await.expect("consuming");
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut consumer).await);
    }
    assert_eq!(held.iter().filter(|delivery| *delivery.queue == *a).count(), 2);
    let more = tokio::time::timeout(Duration::from_millis(300), consumer.next()).await;
    assert!(more.is_err(), "no more than the prefetch");
    drop(held);
    t.end().await;
}

#[tokio::test]
async fn the_most_urgent_comes_first() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |queue| queue.max_priority = Some(9)).await;
    for priority in [1, 9, 5, 0] {
        let mut publication = to(&queue, &priority.to_string());
        publication.message.properties.priority = Some(priority);
        t.broker.publish(publication).await.expect("taken");
    }
    let mut consumer = t.consume(&queue, 1).await;
    for expected in ["9", "5", "1", "0"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(id(&delivery), expected);
        delivery.ack();
    }
    t.end().await;
}

#[tokio::test]
async fn a_message_arrives_as_it_was_sent() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let mut sent = to(&queue, "i");
    sent.message.properties = Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        message_id: Some("m".into()),
        priority: Some(3),
        expiration: Some(Duration::from_secs(60)),
        transient: false,
        kind: Some("k".into()),
        app_id: Some("a".into()),
        timestamp: Some(1_900_000_000),
    };
    sent.message.headers.set("timelimit", serde_json::json!([1.5, null]));
    sent.message.headers.set("x-death", "from an earlier life");
    t.broker.publish(sent.clone()).await.expect("taken");
    let got = t.broker.get(&queue).await.expect("an answer").expect("a message");
    sent.message.headers.remove("x-death");
    assert_eq!(got.message, sent.message);
    assert_eq!((got.exchange.as_str(), &got.routing_key), ("", &queue));
    got.requeue();
    let got = t.broker.get(&queue).await.expect("an answer").expect("it is back");
    got.ack();
    assert!(t.broker.get(&queue).await.expect("an answer").is_none());
    t.end().await;
}

#[tokio::test]
async fn queues_are_counted_purged_and_deleted() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let missing = t.name("missing");
    for n in 0..3 {
        t.send(&queue, &n.to_string()).await.expect("taken");
    }
    let held = t.broker.get(&queue).await.expect("an answer").expect("a message");
    let found = t.broker.queues(&[missing.clone(), queue.clone()]).await.expect("an answer");
    assert_eq!((found.len(), found[0].name.as_str(), found[0].ready), (1, queue.as_str(), 2));
    // A missing queue must not lose the message that is held.
    for error in [
        t.broker.get(&missing).await.map(drop).expect_err("missing"),
        t.broker.purge(&missing).await.map(drop).expect_err("missing"),
        t.broker.delete_queue(&missing).await.expect_err("missing"),
        t.broker
            .consume(Subscription { queues: vec![missing.clone()], prefetch: 1, name: "t".into() })
            .await
            .map(drop)
            .expect_err("missing"),
    ] {
        assert!(error.is_topology() && error.to_string().contains(&missing), "{error}");
    }
    assert_eq!(t.broker.purge(&queue).await.expect("purged"), 2);
    held.ack();
    t.broker.delete_queue(&queue).await.expect("deleted");
    assert!(t.broker.queues(std::slice::from_ref(&queue)).await.expect("an answer").is_empty());
    t.end().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_used_as_it_is() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |queue| queue.kind = Some(QueueKind::Classic)).await;
    let mut other = Queue::new(queue.clone());
    other.max_priority = Some(5);
    other.dead_letter_exchange = Some(String::new());
    t.broker.declare(&Topology::of_queue(other)).await.expect("used as it is");
    t.broker.declare(&Topology::of_queue(Queue::new(queue.clone()))).await.expect("used as it is");
    t.send(&queue, "i").await.expect("taken");
    t.end().await;
}

#[tokio::test]
async fn a_body_of_any_size_comes_through() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    for size in [0, 1, 131_064, 131_065, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let mut sent = to(&queue, "i");
        sent.message = Message { body: body.clone().into(), ..sent.message };
        t.broker.publish(sent).await.expect("taken");
        let got = t.broker.get(&queue).await.expect("an answer").expect("a message");
        assert!(got.message.body == body, "{size}");
        got.ack();
    }
    t.end().await;
}
