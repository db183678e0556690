//! What a publisher is told.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use mq_worker::broker::Publication;
use mq_worker::message::Message;
use mq_worker::{Binding, Exchange, ExchangeKind, Overflow, QueueKind, Topology};

use crate::support::{Fixture, ctl, id, message, next, to, url};

#[tokio::test]
async fn each_of_ten_thousand_callers_learns_its_own_fate() {
    let Some(t) = Fixture::new().await else { return };
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let queue = t.queue(&format!("{kind:?}"), |queue| queue.kind = Some(kind)).await;
        let nowhere = t.name("nowhere");
        let mut sending = FuturesUnordered::new();
        for n in 0..10_000_u32 {
            let lost = n % 7 == 3;
            let publication = to(if lost { &nowhere } else { &queue }, &n.to_string());
            let broker = &t.broker;
            sending.push(async move { (lost, broker.publish(publication).await) });
        }
        let (mut wrong, mut unroutable) = (0, 0);
        while let Some((lost, told)) = sending.next().await {
            match told {
                Ok(()) if !lost => {}
                Err(error) if lost && error.is_unroutable() => unroutable += 1,
                other => {
                    wrong += 1;
                    eprintln!("lost: {lost}, told: {other:?}");
                }
            }
        }
        assert_eq!((wrong, unroutable), (0, 1429), "{kind:?}");
        assert_eq!(t.ready(&queue).await, 10_000 - 1429, "{kind:?}");
    }
    t.end().await;
}

#[tokio::test]
async fn a_missing_exchange_is_the_fault_of_those_who_named_it() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let missing = t.name("no-such-exchange");
    let mut sending = FuturesUnordered::new();
    for n in 0..300 {
        let guilty = n % 50 == 25;
        let mut publication = to(&queue, &n.to_string());
        if guilty {
            publication.exchange.clone_from(&missing);
        }
        let broker = &t.broker;
        sending.push(async move { (guilty, broker.publish(publication).await) });
    }
    while let Some((guilty, told)) = sending.next().await {
        match told {
            Ok(()) => assert!(!guilty),
            Err(error) => {
                assert!(guilty && error.is_topology() && error.to_string().contains(&missing), "{error}")
            }
        }
    }
    drop(sending);
    let mut consumer = t.consume(&queue, 500).await;
    let mut seen = HashSet::new();
    while seen.len() < 294 {
        let delivery = next(&mut consumer).await;
        seen.insert(id(&delivery));
        delivery.ack();
    }
    t.end().await;
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t
        .queue("full", |queue| {
            queue.kind = Some(QueueKind::Classic);
            queue.max_length = Some(1);
            queue.overflow = Some(Overflow::RejectPublish);
        })
        .await;
    t.send(&queue, "1").await.expect("there is room for one");
    let mut refused = 0;
    for n in 0..20 {
        match t.send(&queue, &n.to_string()).await {
            Ok(()) => {}
            Err(error) => {
                assert!(error.is_rejected() && error.to_string().contains("full"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 18, "{refused} of 20 were refused");
    t.end().await;
}

#[tokio::test]
async fn exchanges_of_every_kind_route() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let mut consumer = t.consume(&queue, 10).await;
    for (kind, pattern, key) in [
        (ExchangeKind::Direct, "k", "k"),
        (ExchangeKind::Topic, "order.*.paid", "order.eu.paid"),
        (ExchangeKind::Fanout, "", "whatever"),
    ] {
        let exchange = t.name(kind.as_str());
        let topology = Topology {
            exchanges: vec![Exchange { auto_delete: true, ..Exchange::new(exchange.clone(), kind) }],
            queues: Vec::new(),
            bindings: vec![Binding {
                exchange: exchange.clone(),
                queue: queue.clone(),
                routing_key: pattern.into(),
            }],
        };
        t.broker.declare(&topology).await.expect("declared");
        let publication = Publication { exchange: exchange.clone(), ..to(key, "i") };
        t.broker.publish(publication).await.expect("routed");
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.exchange.as_str(), delivery.routing_key.as_str()), (exchange.as_str(), key));
        delivery.ack();
    }
    t.end().await;
}

#[tokio::test]
async fn names_that_are_too_long_are_errors() {
    let Some(t) = Fixture::new().await else { return };
    let long = "x".repeat(256);
    let fits = t.name(&"y".repeat(150));
    assert!(t.send(&long, "i").await.is_err_and(|error| error.is_config()));
    assert!(t.broker.purge(&long).await.is_err_and(|error| error.is_config()));
    assert!(t.broker.get("").await.is_err());
    assert!(t.send(&fits, "i").await.is_err_and(|error| error.is_unroutable()));
    let reply_to = Some(long);
    let message = Message {
        properties: mq_worker::message::Properties { reply_to, ..Default::default() },
        ..message("i")
    };
    let publication = Publication { message, ..to(&fits, "i") };
    assert!(t.broker.publish(publication).await.is_err_and(|error| error.is_config()));
    t.end().await;
}

#[tokio::test]
async fn a_message_beyond_the_servers_limit_is_told_so_and_harms_no_other() {
    let (Some(url), Some(ctl)) = (url(), ctl()) else { return };
    let _server = crate::support::SERVER.write().await;
    ctl(&["eval", "application:set_env(rabbit, max_message_size, 100000)."]);
    let t = Fixture::alone(&url).await;
    let queue = t.queue("q", |_| {}).await;
    let large = Publication {
        message: Message { body: vec![b'x'; 200_000].into(), ..message("large") },
        ..to(&queue, "large")
    };
    let (large, small) = tokio::join!(t.broker.publish(large), t.send(&queue, "small"));
    ctl(&["eval", "application:set_env(rabbit, max_message_size, 134217728)."]);
    let error = large.expect_err("too large");
    assert!(error.is_too_large(), "{error:?}");
    small.expect("the other one is taken");
    t.end().await;
}

#[tokio::test]
async fn a_broker_that_takes_no_messages_is_an_error_in_time_that_names_the_reason() {
    let (Some(url), Some(ctl)) = (url(), ctl()) else { return };
    let _server = crate::support::SERVER.write().await;
    let mut options = crate::support::options();
    options.timeout = Duration::from_secs(3);
    let t = Fixture::with(&url, options).await;
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "before").await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    let before = next(&mut consumer).await;
    ctl(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    // The first one tells the broker that we publish; it is written, and may be taken later.
    let first = t.send(&queue, "first").await;
    let begun = Instant::now();
    let second = t.send(&queue, "second").await;
    let waited = begun.elapsed();
    // Acks go by the other connection.
    before.ack();
    tokio::time::timeout(Duration::from_secs(5), consumer.control().flush()).await.expect("acks go on");
    ctl(&["set_vm_memory_high_watermark", "0.6"]);
    let first = first.expect_err("no confirm");
    assert_eq!(first.unknown_id(), Some("first"), "{first}");
    let second = second.expect_err("blocked");
    assert!(second.is_timeout() && second.to_string().contains("memory"), "{second}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    // It goes on by itself, and what was called unknown has come.
    crate::support::until("publishing again", || async { t.send(&queue, "after").await.is_ok() }).await;
    assert_eq!(id(&next(&mut consumer).await), "first");
    t.end().await;
}
