//! No message is lost when a consumer, connection or queue goes away.

use mq_worker::{Queue, QueueKind};
use support::within;

use super::super::lab::*;

pub(crate) async fn a_cancelled_consumer_ends_and_nothing_is_lost(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..8 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 5).await;
    let running = next(&mut consumer).await;
    assert_eq!(body(&running), "0");
    let control = consumer.control();
    within("cancel", LIMIT, control.cancel()).await;
    // Deliveries already buffered in the stream may still arrive; then it ends.
    let mut buffered = Vec::new();
    while let Some(delivery) = within("the stream ends", LIMIT, consumer.next()).await {
        buffered.push(delivery);
    }
    assert!(buffered.len() <= 4, "{} came after the end", buffered.len());
    // A delivery taken before the cancel can still be acked.
    running.ack();
    drop(buffered);
    within("flush", LIMIT, control.flush()).await;
    expect_ready(&broker, &queue, 7).await;
    assert_eq!(counted(drain(&broker, &queue).await).len(), 7);
}

pub(crate) async fn a_dropped_consumer_requeues_its_deliveries(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..5 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 3).await;
    let held = next(&mut consumer).await;
    drop(consumer);
    held.ack();
    let mut successor = consume(&broker, &[&queue], 10).await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        let delivery = next(&mut successor).await;
        bodies.push(body(&delivery));
        delivery.ack();
    }
    bodies.sort();
    assert_eq!(bodies, ["1", "2", "3", "4"]);
    expect_nothing(&mut successor).await;
}

pub(crate) async fn closing_requeues_unsettled_deliveries(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..3 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 2).await;
    let held = next(&mut consumer).await;
    within("close", LIMIT, broker.close()).await;
    within("close again", LIMIT, broker.close()).await;
    while let Some(delivery) = within("the stream ends", LIMIT, consumer.next()).await {
        drop(delivery);
    }
    drop(held);
    let other = lab.open().await;
    expect_ready(&other, &queue, 3).await;
    assert_eq!(counted(drain(&other, &queue).await).len(), 3);
}

pub(crate) async fn a_closed_broker_refuses_to_publish(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    within("close", LIMIT, broker.close()).await;
    let error = refused(&broker, to(&queue, "late")).await;
    assert!(!error.to_string().is_empty());
    assert!(within("get", LIMIT, broker.get(&queue)).await.is_err());
    let other = lab.open().await;
    assert!(drain(&other, &queue).await.is_empty(), "an error, and yet it was published");
}

pub(crate) async fn settling_after_closing_does_nothing(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for body in ["a", "b"] {
        publish(&broker, to(&queue, body)).await;
    }
    let mut consumer = consume(&broker, &[&queue], 2).await;
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    within("close", LIMIT, broker.close()).await;
    a.ack();
    b.requeue();
    let other = lab.open().await;
    expect_ready(&other, &queue, 2).await;
}

pub(crate) async fn an_ack_that_was_flushed_is_kept(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..20 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 20).await;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(next(&mut consumer).await);
    }
    // In reverse order, and all but two.
    for (index, delivery) in held.into_iter().enumerate().rev() {
        if index == 3 || index == 11 { delivery.requeue() } else { delivery.ack() }
    }
    let control = consumer.control();
    within("cancel", LIMIT, control.cancel()).await;
    while let Some(delivery) = within("the stream ends", LIMIT, consumer.next()).await {
        drop(delivery);
    }
    within("flush", LIMIT, control.flush()).await;
    within("close", LIMIT, broker.close()).await;
    let other = lab.open().await;
    expect_ready(&other, &queue, 2).await;
    let mut left = drain(&other, &queue).await;
    if lab.kind == Kind::Quorum {
        // Requeued messages have come back in either order, and neither is guaranteed.
        left.sort_by_key(|number| number.parse::<u32>().expect("a number"));
    }
    assert_eq!(left, ["3", "11"]);
}

pub(crate) async fn messages_outlive_the_connection(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for body in ["a", "b"] {
        publish(&broker, to(&queue, body)).await;
    }
    within("close", LIMIT, broker.close()).await;
    drop(broker);
    let other = lab.open().await;
    declare(&other, [Queue::new(&queue)]).await;
    assert_eq!(drain(&other, &queue).await, ["a", "b"]);
}

pub(crate) async fn an_exclusive_queue_goes_with_its_connection(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("mine");
    declare(&broker, [Queue { exclusive: true, durable: false, ..Queue::new(&queue) }]).await;
    let other = lab.open().await;
    publish(&other, to(&queue, "for you")).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    expect_bodies(&mut consumer, &["for you"]).await;
    within("close", LIMIT, broker.close()).await;
    support::eventually("the queue is gone", LIMIT, || async {
        other.publish(to(&queue, "anybody?")).await.err().filter(mq_worker::Error::is_unroutable)
    })
    .await;
}

pub(crate) async fn an_auto_delete_queue_goes_with_its_last_consumer(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("passing");
    declare(&broker, [Queue { auto_delete: true, kind: Some(QueueKind::Classic), ..Queue::new(&queue) }])
        .await;
    publish(&broker, to(&queue, "early")).await;
    let mut first = consume(&broker, &[&queue], 1).await;
    let second = consume(&broker, &[&queue], 1).await;
    expect_bodies(&mut first, &["early"]).await;
    within("cancel", LIMIT, first.control().cancel()).await;
    publish(&broker, to(&queue, "still there")).await;
    within("cancel", LIMIT, second.control().cancel()).await;
    drop(second);
    support::eventually("the queue is gone", LIMIT, || async {
        broker.publish(to(&queue, "anybody?")).await.err().filter(mq_worker::Error::is_unroutable)
    })
    .await;
}

pub(crate) async fn a_consumer_changes_its_queues(lab: &Lab) {
    let (broker, [left, right]) = two_queues(lab).await;
    for n in 0..6 {
        publish(&broker, to(&left, format!("left {n}"))).await;
    }
    publish(&broker, to(&right, "right 0")).await;
    let mut consumer = consume(&broker, &[&left], 2).await;
    let held = next(&mut consumer).await;
    let control = consumer.control();
    within("change", LIMIT, control.set_queues(vec![right.clone()])).await.expect("changed");
    // Deliveries in flight still arrive and can be settled; after that only the other queue is consumed.
    let mut came = Vec::new();
    while !came.contains(&"right 0".to_owned()) {
        let delivery = next(&mut consumer).await;
        came.push(body(&delivery));
        delivery.ack();
    }
    held.ack();
    within("flush", LIMIT, control.flush()).await;
    let taken = came.iter().filter(|body| body.starts_with("left")).count() as u64;
    assert!(taken <= 1, "no more than the prefetch: {came:?}");
    expect_nothing(&mut consumer).await;
    expect_ready(&broker, &left, 5 - taken).await;
    assert!(control.is_attached());
    within("change", LIMIT, control.set_queues(vec![left.clone(), right.clone()])).await.expect("changed");
    for _ in 0..5 - taken {
        let delivery = next(&mut consumer).await;
        assert!(!delivery.redelivered, "{} was delivered before", body(&delivery));
        delivery.ack();
    }
    publish(&broker, to(&right, "right 1")).await;
    expect_bodies(&mut consumer, &["right 1"]).await;
    within("cancel", LIMIT, control.cancel()).await;
    assert!(within("the stream ends", LIMIT, consumer.next()).await.is_none());
}

pub(crate) async fn a_consumer_without_queues_waits_for_some(lab: &Lab) {
    let (broker, [queue, _]) = two_queues(lab).await;
    publish(&broker, to(&queue, "waits")).await;
    let mut consumer = consume(&broker, &[], 1).await;
    let control = consumer.control();
    expect_nothing(&mut consumer).await;
    assert!(control.is_attached());
    within("change", LIMIT, control.set_queues(vec![queue.clone()])).await.expect("changed");
    expect_bodies(&mut consumer, &["waits"]).await;
    within("change", LIMIT, control.set_queues(Vec::new())).await.expect("changed");
    publish(&broker, to(&queue, "waits again")).await;
    expect_nothing(&mut consumer).await;
    within("cancel", LIMIT, control.cancel()).await;
    assert!(within("the stream ends", LIMIT, consumer.next()).await.is_none());
    assert_eq!(drain(&broker, &queue).await, ["waits again"]);
}

async fn two_queues(lab: &Lab) -> (std::sync::Arc<dyn mq_worker::broker::Broker>, [String; 2]) {
    let broker = lab.open().await;
    let names = [lab.name("left"), lab.name("right")];
    declare(&broker, names.each_ref().map(Queue::new)).await;
    (broker, names)
}
