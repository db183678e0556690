//! Delivery: each message goes from its publisher to one consumer, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mq_worker::Queue;
use mq_worker::broker::{Subscription, Verdict};
use support::within;

use super::super::lab::*;

pub(crate) async fn a_message_is_published_consumed_and_acked(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    publish(&broker, to(&queue, "hello")).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(body(&delivery), "hello");
    assert_eq!(&*delivery.queue, queue);
    assert_eq!((delivery.exchange.as_str(), &delivery.routing_key), ("", &queue));
    assert!(!delivery.redelivered);
    delivery.ack();
    expect_nothing(&mut consumer).await;
    consumer.control().cancel().await;
    assert!(broker.get(&queue).await.expect("an answer").is_none(), "what was acked is gone");
}

pub(crate) async fn messages_come_in_the_order_in_which_they_were_published(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let bodies: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    for body in &bodies {
        publish(&broker, to(&queue, body)).await;
    }
    let mut consumer = consume(&broker, &[&queue], 10).await;
    let expected: Vec<&str> = bodies.iter().map(String::as_str).collect();
    expect_bodies(&mut consumer, &expected).await;
}

pub(crate) async fn a_requeued_message_comes_back_first_and_redelivered(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for body in ["first", "second"] {
        publish(&broker, to(&queue, body)).await;
    }
    let mut consumer = consume(&broker, &[&queue], 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((body(&delivery).as_str(), delivery.redelivered), ("first", false));
    delivery.requeue();
    let mut rest = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        rest.push((body(&delivery), delivery.redelivered));
        delivery.ack();
    }
    if lab.kind == Kind::Quorum {
        // RabbitMQ returns it through a separate entry in the queue's log: waiting messages may overtake it.
        rest.sort();
    }
    assert_eq!(rest, [("first".to_owned(), true), ("second".to_owned(), false)]);
}

pub(crate) async fn a_rejected_message_is_dead_lettered(lab: &Lab) {
    let (broker, dead) = lab.with_queue("dead").await;
    let queue = Queue {
        dead_letter_exchange: Some(String::new()),
        dead_letter_routing_key: Some(dead.clone()),
        ..Queue::new(lab.name("work"))
    };
    let name = queue.name.clone();
    declare(&broker, [queue]).await;
    for body in ["bad", "good"] {
        publish(&broker, to(&name, body)).await;
    }
    let mut works = consume(&broker, &[&name], 1).await;
    let delivery = next(&mut works).await;
    assert_eq!(body(&delivery), "bad");
    delivery.settlement.settle(Verdict::Reject);
    expect_bodies(&mut works, &["good"]).await;
    let mut letters = consume(&broker, &[&dead], 1).await;
    expect_bodies(&mut letters, &["bad"]).await;
    // Without a dead-letter queue the message is dropped.
    publish(&broker, to(&dead, "gone")).await;
    next(&mut letters).await.settlement.settle(Verdict::Reject);
    expect_nothing(&mut letters).await;
    // The same applies to a message taken with `get`.
    works.control().cancel().await;
    publish(&broker, to(&name, "taken")).await;
    let taken = broker.get(&name).await.expect("an answer").expect("the message");
    taken.settlement.settle(Verdict::Reject);
    expect_bodies(&mut letters, &["taken"]).await;
}

pub(crate) async fn a_dropped_delivery_comes_back(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    publish(&broker, to(&queue, "kept")).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert_eq!((body(&again).as_str(), again.redelivered), ("kept", true));
    again.ack();
    expect_nothing(&mut consumer).await;
}

pub(crate) async fn no_more_than_the_prefetch_is_handed_out(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..10 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 3).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    expect_nothing(&mut consumer).await;
    expect_ready(&broker, &queue, 7).await;
    held.pop().expect("three are held").ack();
    held.push(next(&mut consumer).await);
    expect_nothing(&mut consumer).await;
    expect_ready(&broker, &queue, 6).await;
}

pub(crate) async fn a_smaller_prefetch_counts_what_was_delivered_before(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..12 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let mut consumer = consume(&broker, &[&queue], 8).await;
    let control = consumer.control();
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(next(&mut consumer).await);
    }
    let mut seen: Vec<String> = held.iter().map(body).collect();
    within("change", LIMIT, control.set_prefetch(2)).await.expect("changed");
    held.drain(2..).for_each(mq_worker::broker::Delivery::ack);
    expect_nothing(&mut consumer).await;
    expect_ready(&broker, &queue, 4).await;
    for _ in 0..2 {
        held.remove(0).ack();
        held.push(next(&mut consumer).await);
    }
    expect_ready(&broker, &queue, 2).await;
    within("change", LIMIT, control.set_prefetch(8)).await.expect("changed");
    for _ in 0..2 {
        held.push(next(&mut consumer).await);
    }
    seen.extend(held.iter().map(body));
    seen.sort_by_key(|body| body.parse::<u32>().expect("a number"));
    assert_eq!(seen, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(held.iter().all(|delivery| !delivery.redelivered));
    held.into_iter().for_each(mq_worker::broker::Delivery::ack);
    within("a flush", LIMIT, control.flush()).await;
    assert_eq!(control.unsettled().unwrap_or_default(), 0);
}

pub(crate) async fn a_prefetch_of_zero_is_refused(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let subscription = Subscription { queues: vec![queue], prefetch: 0, name: "greedy".into() };
    let error = within("consume", LIMIT, broker.consume(subscription)).await.expect_err("0 means no limit");
    assert!(error.is_config(), "{error:?}");
}

pub(crate) async fn two_consumers_share_a_queue(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let other = lab.open().await;
    let total = 40;
    let left = Arc::new(AtomicUsize::new(total));
    let mut tasks = Vec::new();
    for broker in [&broker, &other] {
        let mut consumer = consume(broker, &[&queue], 1).await;
        let left = Arc::clone(&left);
        tasks.push(tokio::spawn(async move {
            let mut bodies = Vec::new();
            while let Some(delivery) = consumer.next().await {
                bodies.push(body(&delivery));
                // Work for a moment, so that neither consumer can take everything.
                tokio::time::sleep(Duration::from_millis(5)).await;
                delivery.ack();
                left.fetch_sub(1, Ordering::SeqCst);
            }
            bodies
        }));
    }
    for n in 0..total {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    support::eventually("all are worked off", LIMIT, || async {
        (left.load(Ordering::SeqCst) == 0).then_some(())
    })
    .await;
    broker.close().await;
    other.close().await;
    let mut all = Vec::new();
    for task in tasks {
        let bodies = within("the consumer ends", LIMIT, task).await.expect("no panic");
        assert!(bodies.len() >= total / 5, "one consumer got only {} of {total}", bodies.len());
        all.extend(bodies);
    }
    let counts = counted(all);
    assert_eq!(counts.len(), total);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

pub(crate) async fn one_consumer_listens_to_several_queues(lab: &Lab) {
    let (broker, first) = lab.with_queue("first").await;
    let second = lab.name("second");
    declare(&broker, [Queue::new(&second)]).await;
    let mut consumer = consume(&broker, &[&first, &second], 2).await;
    publish(&broker, to(&first, "a")).await;
    publish(&broker, to(&second, "b")).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        seen.push((delivery.queue.to_string(), body(&delivery)));
        delivery.ack();
    }
    seen.sort();
    assert_eq!(seen, [(first, "a".to_owned()), (second, "b".to_owned())]);
}

pub(crate) async fn a_waiting_consumer_gets_a_message_at_once(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let other = lab.open().await;
    let mut consumer = consume(&other, &[&queue], 1).await;
    expect_nothing(&mut consumer).await;
    let mut best = Duration::MAX;
    for n in 0..10 {
        let begin = Instant::now();
        publish(&broker, to(&queue, n.to_string())).await;
        next(&mut consumer).await.ack();
        best = best.min(begin.elapsed());
    }
    // The best of ten: the machine may be busy, but polling once a second would still show.
    assert!(best < Duration::from_millis(250), "it took {best:?}");
}

pub(crate) async fn urgent_messages_come_first(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("urgent");
    declare(&broker, [Queue { max_priority: Some(9), ..Queue::new(&queue) }]).await;
    for (body, priority) in [
        ("1", Some(1)),
        ("none", None),
        ("5a", Some(5)),
        ("9", Some(9)),
        ("5b", Some(5)),
        ("more", Some(200)),
    ] {
        let mut publication = to(&queue, body);
        publication.message.properties.priority = priority;
        publish(&broker, publication).await;
    }
    let mut consumer = consume(&broker, &[&queue], 1).await;
    // Priorities above the maximum count as the maximum; no priority is the lowest.
    expect_bodies(&mut consumer, &["9", "more", "5a", "5b", "1", "none"]).await;
}

pub(crate) async fn get_takes_one_message_or_none(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let get = || async { within("get", LIMIT, broker.get(&queue)).await.expect("an answer") };
    assert!(get().await.is_none());
    for body in ["a", "b"] {
        publish(&broker, to(&queue, body)).await;
    }
    let a = get().await.expect("a message");
    let b = get().await.expect("the next message, while the first is looked at");
    assert_eq!((body(&a), body(&b)), ("a".to_owned(), "b".to_owned()));
    assert_eq!(&*a.queue, queue);
    b.ack();
    drop(a);
    expect_ready(&broker, &queue, 1).await;
    let again = get().await.expect("it came back");
    assert_eq!((body(&again).as_str(), again.redelivered), ("a", true));
    again.ack();
    assert!(get().await.is_none());
}

pub(crate) async fn a_thousand_concurrent_publishes_all_arrive_once(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let publishes = (0..1000).map(|n| {
        let (broker, publication) = (Arc::clone(&broker), to(&queue, n.to_string()));
        tokio::spawn(async move { broker.publish(publication).await })
    });
    for outcome in within("1000 publishes", LIMIT * 2, join_all(publishes)).await {
        outcome.expect("no panic").expect("the message is taken");
    }
    let mut consumer = consume(&broker, &[&queue], 50).await;
    let mut bodies = Vec::new();
    for _ in 0..1000 {
        let delivery = next(&mut consumer).await;
        bodies.push(body(&delivery));
        delivery.ack();
    }
    expect_nothing(&mut consumer).await;
    let counts = counted(bodies);
    assert_eq!(counts.len(), 1000);
    assert!(counts.values().all(|count| *count == 1), "some came twice");
}

pub(crate) async fn get_many_keeps_the_order_and_requeued_messages_their_position(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let bodies: Vec<String> = (0..1500).map(|n| n.to_string()).collect();
    for some in bodies.chunks(500) {
        join_all(some.iter().map(|body| publish(&broker, to(&queue, body)))).await;
    }
    // A broker may enqueue concurrent publishes in any order.
    let mut before = Vec::new();
    let (mut held, mut kept) = (Vec::new(), Vec::new());
    for most in [1, 100, 400, 700, 1000] {
        let taken = within("get many", LIMIT, broker.get_many(&queue, most)).await.expect("an answer");
        assert!(!taken.is_empty() && taken.len() <= most, "{} of {most}", taken.len());
        before.extend(taken.iter().map(body));
        // All of the last batch are requeued.
        for delivery in taken {
            if before.len() < 1200 && body(&delivery).ends_with(['3', '5']) {
                delivery.ack();
            } else {
                kept.push(body(&delivery));
                held.push(delivery);
            }
        }
    }
    let mut all = before.clone();
    all.sort_by_key(|body| body.parse::<u32>().expect("a number"));
    assert_eq!(all, bodies, "each once");
    assert!(within("get many", LIMIT, broker.get_many(&queue, 10)).await.expect("an answer").is_empty());
    held.into_iter().for_each(mq_worker::broker::Delivery::requeue);
    within("all are back", LIMIT, broker.get_many(&queue, 0)).await.expect("an answer");
    expect_ready(&broker, &queue, kept.len() as u64).await;
    let mut rest = Vec::new();
    loop {
        let taken = within("get many", LIMIT, broker.get_many(&queue, 256)).await.expect("an answer");
        if taken.is_empty() {
            break;
        }
        rest.extend(taken.iter().map(body));
        taken.into_iter().for_each(mq_worker::broker::Delivery::ack);
    }
    assert_eq!(rest, kept, "in their order");
    within("all are acked", LIMIT, broker.get_many(&queue, 0)).await.expect("an answer");
    broker.close().await;
    assert_eq!(drain(&lab.open().await, &queue).await, Vec::<String>::new(), "no ack was lost");
}

pub(crate) async fn a_look_does_not_delete_a_queue_that_goes_with_its_last_consumer(lab: &Lab) {
    let broker = lab.open().await;
    let queue = lab.name("auto");
    declare(&broker, [Queue { auto_delete: true, ..Queue::new(&queue) }]).await;
    for body in ["first", "second", "third"] {
        publish(&broker, to(&queue, body)).await;
    }
    let taken = within("get many", LIMIT, broker.get_many(&queue, 2)).await.expect("an answer");
    assert_eq!(taken.iter().map(body).collect::<Vec<_>>(), ["first", "second"]);
    drop(taken);
    expect_ready(&broker, &queue, 3).await;
    broker.delete_queue(&queue).await.expect("it is there");
}
