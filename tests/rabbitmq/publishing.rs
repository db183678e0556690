//! The outcomes that a publisher sees.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use mq_worker::broker::Publication;
use mq_worker::message::Message;
use mq_worker::{Binding, ConnectOptions, Exchange, ExchangeKind, Overflow, QueueKind, Topology};

use support::{Node, shared};

use super::fixture::{Fixture, id, message, next, options, to, until};

#[tokio::test]
async fn each_of_ten_thousand_callers_gets_its_own_outcome() {
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
        t.expect_ready(&queue, 10_000 - 1429).await;
    }
    t.end().await;
}

/// Between rounds the publishing task is idle at times: then a caller writes its first message itself, and the task the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_of_one_caller_keep_their_order_whoever_writes_them() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let (callers, rounds, each) = (3, 150, 3);
    let send = |caller: usize| {
        let (broker, queue) = (t.broker.clone(), queue.clone());
        tokio::spawn(async move {
            for round in 0..rounds {
                let number = |n: usize| (callers * (round * each + n) + caller).to_string();
                let sent = (0..each).map(|n| broker.publish(to(&queue, &number(n))));
                for told in join_all(sent).await {
                    told.expect("published");
                }
            }
        })
    };
    for sent in join_all((0..callers).map(send)).await {
        sent.expect("no panic");
    }
    let mut consumer = t.consume(&queue, 600).await;
    let mut due: Vec<usize> = (0..callers).collect();
    for _ in 0..callers * rounds * each {
        let delivery = next(&mut consumer).await;
        let number: usize = id(&delivery).parse().expect("a number");
        assert_eq!(number, due[number % callers]);
        due[number % callers] += callers;
        delivery.ack();
    }
    t.end().await;
}

#[tokio::test]
async fn a_missing_exchange_fails_only_the_publishes_that_name_it() {
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

/// Declares a queue that holds one message and refuses more.
async fn room_for_one(t: &Fixture) -> String {
    t.queue("full", |queue| {
        queue.kind = Some(QueueKind::Classic);
        queue.max_length = Some(1);
        queue.overflow = Some(Overflow::RejectPublish);
    })
    .await
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let Some(t) = Fixture::new().await else { return };
    let queue = room_for_one(&t).await;
    t.send(&queue, "1").await.expect("there is room for one");
    let begun = Instant::now();
    let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
    let sent = join_all(names.iter().map(|name| t.send(&queue, name))).await;
    let refused: Vec<_> = sent.into_iter().filter_map(Result::err).collect();
    assert!(refused.len() >= 18, "{} of 20 were refused", refused.len());
    for error in refused {
        assert!(error.is_rejected() && error.to_string().contains("full"), "{error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    t.end().await;
}

/// A quorum queue refuses while it elects a leader: that passes, and callers should not have to handle it.
#[tokio::test]
async fn a_refused_publish_is_repeated_until_there_is_room_without_a_duplicate() {
    let Some(t) = Fixture::new().await else { return };
    let queue = room_for_one(&t).await;
    t.send(&queue, "first").await.expect("there is room for one");
    let (sent, ()) = tokio::join!(t.send(&queue, "second"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let first = t.broker.get(&queue).await.expect("an answer").expect("a message");
        assert_eq!(id(&first), "first");
        first.ack();
    });
    sent.expect("taken, when there was room");
    let mut consumer = t.consume(&queue, 10).await;
    let second = next(&mut consumer).await;
    assert_eq!(id(&second), "second");
    second.ack();
    let more = tokio::time::timeout(Duration::from_millis(700), consumer.next()).await;
    assert!(more.is_err(), "{more:?}");
    t.end().await;
}

/// If one of several queues refuses, others may have taken the message.
#[tokio::test]
async fn what_one_of_several_queues_refused_is_not_published_again() {
    let Some(t) = Fixture::new().await else { return };
    let (full, other, exchange) = (room_for_one(&t).await, t.queue("other", |_| {}).await, t.name("fanout"));
    let bind = |queue: &String| Binding {
        exchange: exchange.clone(),
        queue: queue.clone(),
        routing_key: String::new(),
    };
    let topology = Topology {
        exchanges: vec![Exchange {
            auto_delete: true,
            ..Exchange::new(exchange.clone(), ExchangeKind::Fanout)
        }],
        queues: Vec::new(),
        bindings: vec![bind(&full), bind(&other)],
    };
    t.broker.declare(&topology).await.expect("declared");
    t.send(&full, "first").await.expect("there is room for one");
    let publication = Publication { exchange, ..to("k", "i") };
    let error = t.broker.publish(publication).await.expect_err("one of them is full");
    assert!(error.is_rejected(), "{error}");
    // The refusal may arrive before the other queue has its message.
    let mut consumer = t.consume(&other, 10).await;
    next(&mut consumer).await.ack();
    let more = tokio::time::timeout(Duration::from_millis(700), consumer.next()).await;
    assert!(more.is_err(), "{more:?}");
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
    if !shared::may_start_rabbitmq("the RabbitMQ broker") {
        return;
    }
    let start = || Node::start_with("max_message_size = 100000");
    let node = tokio::task::spawn_blocking(start).await.expect("a node");
    let t = Fixture::alone(&node.url()).await;
    let queue = t.queue("q", |_| {}).await;
    let large = Publication {
        message: Message { body: vec![b'x'; 200_000].into(), ..message("large") },
        ..to(&queue, "large")
    };
    let (large, small) = tokio::join!(t.broker.publish(large), t.send(&queue, "small"));
    let error = large.expect_err("too large");
    assert!(error.is_too_large(), "{error:?}");
    small.expect("the other one is taken");
    t.end().await;
}

#[tokio::test]
async fn a_blocked_broker_is_a_timeout_that_names_the_alarm_while_acks_continue() {
    if !shared::may_start_rabbitmq("the RabbitMQ broker") {
        return;
    }
    let node = tokio::task::spawn_blocking(Node::start).await.expect("a node");
    let t = Fixture::with(&node.url(), ConnectOptions { timeout: Duration::from_secs(3), ..options() }).await;
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "before").await.expect("taken");
    t.send(&queue, "behind it").await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    let before = next(&mut consumer).await;
    node.set_memory_alarm(true);
    // The first publish makes the broker block the connection; it is already written, and may be taken later.
    let first = t.send(&queue, "first").await;
    let begun = Instant::now();
    let second = t.send(&queue, "second").await;
    let waited = begun.elapsed();
    // Acks use the other connection: with a prefetch of one, the next delivery shows that this ack has arrived.
    before.ack();
    let behind = next(&mut consumer).await;
    assert_eq!(id(&behind), "behind it");
    behind.ack();
    node.set_memory_alarm(false);
    let first = first.expect_err("no confirm");
    assert_eq!(first.unknown_id(), Some("first"), "{first}");
    let second = second.expect_err("blocked");
    assert!(second.is_timeout() && second.to_string().contains("memory"), "{second}");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    // Publishing recovers by itself, and the message reported as unknown has arrived.
    until("publishing again", || async { t.send(&queue, "after").await.is_ok() }).await;
    assert_eq!(id(&next(&mut consumer).await), "first");
    t.end().await;
}

/// A header frame cannot be split: the broker closes the connection over one that is too large, which loses the confirms of
/// all callers.
#[tokio::test]
async fn headers_that_do_not_fit_into_a_frame_are_refused_before_anything_is_written() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let noted = |id: &str, note: usize| {
        let mut publication = to(&queue, id);
        publication.message.headers.set("note", "x".repeat(note));
        publication
    };
    let mut sending = FuturesUnordered::new();
    for n in 0..500 {
        let guilty = n % 50 == 25;
        let publication = noted(&n.to_string(), if guilty { 200_000 } else { 10 });
        let broker = &t.broker;
        sending.push(async move { (guilty, broker.publish(publication).await) });
    }
    while let Some((guilty, told)) = sending.next().await {
        match told {
            Ok(()) => assert!(!guilty),
            Err(error) => assert!(guilty && error.is_too_large() && error.is_permanent(), "{error}"),
        }
    }
    drop(sending);
    t.expect_ready(&queue, 490).await;
    t.broker.purge(&queue).await.expect("purged");

    // Exact to the byte: the largest message that we send is taken, and comes back whole each time it is redelivered.
    let (mut least, mut most) = (130_000, 132_000);
    while most - least > 1 {
        let note = (least + most) / 2;
        match t.broker.publish(noted("i", note)).await {
            Ok(()) => least = note,
            Err(error) => {
                assert!(error.is_too_large(), "{error}");
                most = note;
            }
        }
    }
    t.broker.purge(&queue).await.expect("purged");
    t.broker.publish(noted("i", least)).await.expect("taken");
    for _ in 0..3 {
        let delivery = t.broker.get(&queue).await.expect("an answer").expect("it is there");
        let note = delivery.message.headers.get_str("note").expect("the note").len();
        assert_eq!((note, id(&delivery).as_str()), (least, "i"));
        delivery.requeue();
        until("it is back", || async { t.ready(&queue).await == 1 }).await;
    }
    t.broker.purge(&queue).await.expect("purged");

    // On a delay ladder the broker adds headers, and consumers have the same frame limit.
    let waits = |note| Publication { delay: Some(Duration::from_millis(1023)), ..noted("later", note) };
    let error = t.broker.publish(waits(least)).await.expect_err("no room");
    assert!(error.is_too_large(), "{error}");
    t.broker.publish(waits(120_000)).await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.message.headers.get_str("note").map(str::len), Some(120_000));
    delivery.ack();
    t.end().await;
}
