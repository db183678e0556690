//! What must be restored after a connection was lost.

use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::{Queue, Topology};
use tokio::time::timeout;

use super::fixture::{Detour, Fixture, SOON, id, next, to, until, url};

/// RabbitMQ considers a connection alive until it has missed its heartbeats, and keeps that connection's exclusive queues
/// locked (405). Nothing else may wait for that.
#[tokio::test]
async fn exclusive_queues_that_our_old_connection_still_holds_come_back_and_hold_up_no_other() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    let (common, mine) = (t.queue("common", |_| {}).await, ["a", "b", "c"].map(|name| t.name(name)));
    for name in &mine {
        let queue = Queue { exclusive: true, durable: false, auto_delete: true, ..Queue::new(name.clone()) };
        t.broker.declare(&Topology::of_queue(queue)).await.expect("declared");
    }
    let mut consumers = Vec::new();
    for name in [&common].into_iter().chain(&mine) {
        consumers.push(t.consume(name, 5).await);
        t.send(name, "before").await.expect("taken");
        next(consumers.last_mut().expect("the last one")).await.ack();
    }
    proxy.cut_unnoticed();
    // More than the prefetch of the consumer that the server still considers alive.
    for _ in 0..12 {
        until("publishing works again", || async { t.send(&common, "after").await.is_ok() }).await;
    }
    let delivery = next(&mut consumers[0]).await;
    assert_eq!(id(&delivery), "after");
    delivery.ack();
    for consumer in &mut consumers[1..] {
        let more = timeout(Duration::from_millis(100), consumer.next()).await;
        assert!(more.is_err(), "the queue is locked, which is what makes this a test: {more:?}");
    }
    proxy.tell_the_server();
    for (name, consumer) in mine.iter().zip(&mut consumers[1..]) {
        // Messages sent before that are lost with the old queue.
        let again = async {
            loop {
                let _ = t.send(name, "after").await;
                if let Ok(delivery) = timeout(Duration::from_millis(200), next(consumer)).await {
                    break delivery;
                }
            }
        };
        let delivery = timeout(SOON * 2, again).await.expect("consumed again, without being asked");
        assert_eq!(id(&delivery), "after");
        delivery.ack();
    }
    t.end().await;
}

/// Confirms and returns belong to a channel: they must be enabled again on each new one.
#[tokio::test]
async fn confirms_and_returns_are_told_on_every_connection() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    let (queue, nowhere) = (t.queue("q", |_| {}).await, t.name("nowhere"));
    for round in 0..4 {
        until("publishing works", || async { t.send(&queue, "first").await.is_ok() }).await;
        let before = t.ready(&queue).await;
        let names: Vec<String> = (0..100).map(|n| format!("{round}-{n}")).collect();
        let to = |n: usize| if n.is_multiple_of(3) { &nowhere } else { &queue };
        let sent = join_all(names.iter().enumerate().map(|(n, name)| t.send(to(n), name))).await;
        for (n, sent) in sent.into_iter().enumerate() {
            match sent {
                Ok(()) => assert_ne!(n % 3, 0, "round {round}: {n} lies nowhere"),
                Err(error) => {
                    assert!(error.is_unroutable() && n.is_multiple_of(3), "round {round}, {n}: {error}")
                }
            }
        }
        assert_eq!(t.ready(&queue).await - before, 66, "round {round}: what is confirmed is there");
        proxy.cut();
    }
    t.end().await;
}

/// Senders choose ids: a finished call says nothing about another call with the same id.
#[tokio::test]
async fn another_call_under_the_id_of_one_that_is_done_is_handed_out() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let (t, other) = (Fixture::alone(&proxy.url).await, Fixture::alone(&url).await);
    let queue = t.queue("q", |_| {}).await;
    let call = |argument: u32| {
        let mut publication = to(&queue, "one id");
        publication.message.body = format!("[[{argument}],{{}},{{}}]").into();
        publication
    };
    // Delivered once already, and so redelivered from now on.
    other.broker.publish(call(2)).await.expect("taken");
    other.broker.get(&queue).await.expect("an answer").expect("the second").requeue();
    until("it is back", || async { other.ready(&queue).await == 1 }).await;
    let second = other.broker.get(&queue).await.expect("an answer").expect("the second");
    other.broker.publish(call(1)).await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    let first = next(&mut consumer).await;
    assert_eq!(&first.message.body[..], b"[[1],{},{}]");
    first.ack();
    consumer.control().flush().await;
    proxy.cut();
    until("it consumes again", || async { consumer.control().is_attached() }).await;
    second.requeue();
    let second = next(&mut consumer).await;
    assert_eq!((&second.message.body[..], second.redelivered), (&b"[[2],{},{}]"[..], true));
    second.ack();
    other.end().await;
    t.end().await;
}
