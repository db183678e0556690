//! Queues within one process: order, prefetch, settling, exchanges.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use mq_worker::message::{Headers, Properties};
use mq_worker::{Binding, Exchange, ExchangeKind, Queue, Topology};

use super::*;

#[tokio::test]
async fn a_message_comes_out_as_it_went_in() {
    let (_dir, broker) = fresh(&["email"]).await;
    let mut publication = to_queue("email", "[[1],{},{}]");
    publication.message.headers = Headers::for_task("send_email", "id-1");
    publication.message.headers.set("nested", serde_json::json!({"ü": [1, null]}));
    publication.message.properties = Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("utf-8".into()),
        correlation_id: Some("id-1".into()),
        priority: Some(3),
        timestamp: Some(1_700_000_000),
        ..Properties::default()
    };
    broker.publish(publication.clone()).await.expect("published");
    let delivery = broker.get("email").await.expect("readable").expect("one");
    assert_eq!(delivery.message, publication.message);
    assert_eq!((&*delivery.queue, &*delivery.exchange, &*delivery.routing_key), ("email", "", "email"));
    assert_eq!((delivery.redelivered, delivery.crashes), (false, Some(0)));
    assert!(broker.get("email").await.expect("readable").is_none(), "a claimed message is nobody else's");
    delivery.ack();
    until("the ack is written", async || counts(&*broker, "email").await == Some((0, 0, 0, 0))).await;
}

#[tokio::test]
async fn urgent_messages_come_first_and_a_requeued_one_keeps_its_place() {
    let (_dir, broker) = fresh(&[]).await;
    declare(&*broker, Queue { max_priority: Some(5), ..Queue::new("q") }).await;
    for (body, priority) in [("a", None), ("b", Some(0)), ("c", Some(5)), ("d", Some(9)), ("e", Some(2))] {
        let mut publication = to_queue("q", body);
        publication.message.properties.priority = priority;
        broker.publish(publication).await.expect("published");
    }
    let first = broker.get("q").await.expect("readable").expect("one");
    assert_eq!(body(&first), "c");
    first.requeue();
    let mut consumer = consume(&*broker, &["q"], 1).await;
    let mut order = Vec::new();
    for _ in 0..5 {
        let delivery = next(&mut consumer).await;
        order.push((body(&delivery), delivery.redelivered, delivery.crashes));
        delivery.ack();
    }
    // 9 counts as 5 here, the maximum of the queue.
    let expected = [("c", true), ("d", false), ("e", false), ("a", false), ("b", false)];
    assert_eq!(order, expected.map(|(body, redelivered)| (body.to_owned(), redelivered, Some(0))));
}

#[tokio::test]
async fn prefetch_bounds_what_is_unsettled_over_all_queues() {
    let (_dir, broker) = fresh(&["a", "b"]).await;
    let mut consumer = consume(&*broker, &["a", "b"], 3).await;
    for index in 0..5 {
        publish(&*broker, "a", &index.to_string()).await;
        publish(&*broker, "b", &index.to_string()).await;
    }
    let mut held = vec![next(&mut consumer).await, next(&mut consumer).await, next(&mut consumer).await];
    assert!(is_quiet(&mut consumer).await, "a fourth delivery came");
    held.remove(0).ack();
    next(&mut consumer).await.ack();
    next(&mut consumer).await.requeue();
    let running = async || counts(&*broker, "a").await.unwrap().1 + counts(&*broker, "b").await.unwrap().1;
    until("all free places are taken again", async || running().await == 3).await;
}

#[tokio::test]
async fn a_full_queue_does_not_starve_its_neighbours() {
    let (_dir, broker) = fresh(&["full", "rare"]).await;
    for index in 0..100 {
        publish(&*broker, "full", &index.to_string()).await;
    }
    for index in 0..3 {
        publish(&*broker, "rare", &index.to_string()).await;
    }
    let mut consumer = consume(&*broker, &["full", "rare"], 1).await;
    let mut served = Vec::new();
    for _ in 0..8 {
        let delivery = next(&mut consumer).await;
        served.push(delivery.queue.to_string());
        delivery.ack();
    }
    assert_eq!(served.iter().filter(|queue| *queue == "rare").count(), 3, "{served:?}");
}

#[tokio::test]
async fn two_consumers_of_one_process_share() {
    let (_dir, broker) = fresh(&["q"]).await;
    let (mut one, mut other) = (consume(&*broker, &["q"], 50).await, consume(&*broker, &["q"], 50).await);
    let publications = (0..50).map(|index| to_queue("q", &index.to_string()));
    futures_util::future::try_join_all(publications.map(|publication| broker.publish(publication)))
        .await
        .expect("published");
    let mut seen = HashSet::new();
    let mut shares = [0, 0];
    while seen.len() < 50 {
        let (index, delivery) = tokio::select! {
            delivery = one.next() => (0, delivery.expect("open")),
            delivery = other.next() => (1, delivery.expect("open")),
        };
        assert!(seen.insert(body(&delivery)), "handed out twice");
        shares[index] += 1;
        // Not settled, so each consumer keeps its share.
        std::mem::forget(delivery);
    }
    assert!(shares.iter().all(|share| *share >= 10), "{shares:?}");
}

#[tokio::test]
async fn many_callers_lose_nothing() {
    let (_dir, broker) = fresh(&["q"]).await;
    let callers = (0..64).map(|caller| {
        let broker = std::sync::Arc::clone(&broker);
        tokio::spawn(async move {
            for index in 0..50 {
                publish(&*broker, "q", &format!("{caller}-{index}")).await;
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.expect("no panic");
    }
    assert_eq!(counts(&*broker, "q").await, Some((3200, 0, 0, 0)));
    let mut consumer = consume(&*broker, &["q"], 500).await;
    let mut seen = HashSet::new();
    while seen.len() < 3200 {
        let delivery = next(&mut consumer).await;
        assert!(seen.insert(body(&delivery)), "handed out twice");
        delivery.ack();
    }
    consumer.control().flush().await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 1)));
}

#[tokio::test]
async fn cancelling_ends_the_stream_and_dropping_gives_back() {
    let (_dir, broker) = fresh(&["q"]).await;
    for index in 0..4 {
        publish(&*broker, "q", &index.to_string()).await;
    }
    let mut consumer = consume(&*broker, &["q"], 2).await;
    let held = next(&mut consumer).await;
    consumer.control().cancel().await;
    let buffered = next(&mut consumer).await;
    assert!(consumer.next().await.is_none(), "the stream goes on");
    assert_eq!(counts(&*broker, "q").await, Some((2, 2, 0, 0)));
    held.ack();
    drop(buffered);
    let control = consumer.control();
    control.flush().await;
    assert_eq!(counts(&*broker, "q").await, Some((3, 0, 0, 0)));

    // Dropped without settling: its messages go back unchanged.
    let mut consumer = consume(&*broker, &["q"], 2).await;
    let _first = next(&mut consumer).await;
    drop(consumer);
    until("the rest is ready again", async || counts(&*broker, "q").await == Some((2, 1, 0, 0))).await;
}

#[tokio::test]
async fn closing_hands_back_and_then_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let (broker, other) = (open(&path).await, open(&path).await);
    declare(&*broker, Queue::new("q")).await;
    declare(&*broker, Queue { exclusive: true, ..Queue::new("mine") }).await;
    publish(&*broker, "q", "1").await;
    let mut consumer = consume(&*broker, &["q"], 1).await;
    let held = next(&mut consumer).await;
    let error = other.get("mine").await.expect_err("exclusive to the other");
    assert!(error.is_topology() && error.to_string().contains("exclusive"), "{error}");
    broker.close().await;
    assert_eq!(counts(&*other, "q").await, Some((1, 0, 0, 0)));
    assert_eq!(counts(&*other, "mine").await, None);
    // Settled too late: another consumer may have the message.
    held.ack();
    let again = other.get("q").await.unwrap().expect("it came back");
    assert_eq!((again.redelivered, again.crashes), (true, Some(0)));
    assert!(broker.publish(to_queue("q", "2")).await.expect_err("closed").is_connection());
}

#[tokio::test]
async fn an_unroutable_message_is_an_error_if_mandatory_and_dropped_otherwise() {
    let (_dir, broker) = fresh(&["q"]).await;
    let error = broker.publish(to_queue("nobody", "x")).await.expect_err("no queue");
    assert!(error.is_unroutable() && error.to_string().contains("`nobody`"), "{error}");
    let dropped = Publication { mandatory: false, ..to_queue("nobody", "x") };
    broker.publish(dropped).await.expect("dropped silently");
    let lost = Publication { exchange: "nowhere".into(), mandatory: false, ..to_queue("q", "x") };
    let error = broker.publish(lost).await.expect_err("no exchange");
    assert!(error.is_topology() && error.to_string().contains("`nowhere`"), "{error}");
    let subscription =
        Subscription { queues: vec!["q".into(), "nobody".into()], prefetch: 1, name: "t".into() };
    let error = broker.consume(subscription).await.expect_err("no queue");
    assert!(error.is_topology() && error.to_string().contains("`nobody`"), "{error}");
    assert!(broker.get("nobody").await.expect_err("no queue").is_topology());
    assert!(broker.purge("nobody").await.expect_err("no queue").is_topology());
    broker.delete_queue("nobody").await.expect("nothing to do");
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 0)));
}

#[tokio::test]
async fn exchanges_send_copies_where_they_are_bound() {
    let (_dir, broker) = fresh(&["all", "eu", "paid", "exact"]).await;
    let binding = |exchange: &str, queue: &str, key: &str| Binding {
        exchange: exchange.into(),
        queue: queue.into(),
        routing_key: key.into(),
    };
    let topology = Topology {
        exchanges: vec![
            Exchange::new("fan", ExchangeKind::Fanout),
            Exchange::new("topic", ExchangeKind::Topic),
            Exchange::new("direct", ExchangeKind::Direct),
        ],
        bindings: vec![
            binding("fan", "all", ""),
            binding("fan", "eu", "ignored"),
            binding("topic", "eu", "order.eu.#"),
            binding("topic", "paid", "order.*.paid"),
            binding("topic", "paid", "#.paid"),
            binding("direct", "exact", "key"),
        ],
        ..Topology::default()
    };
    broker.declare(&topology).await.expect("declared");
    broker.declare(&topology).await.expect("declaring again changes nothing");
    for (exchange, key, reached) in [
        ("fan", "whatever", vec!["all", "eu"]),
        ("topic", "order.eu.paid", vec!["eu", "paid"]),
        ("topic", "order.us.paid", vec!["paid"]),
        ("direct", "key", vec!["exact"]),
    ] {
        broker
            .publish(Publication { exchange: exchange.into(), routing_key: key.into(), ..to_queue("", "x") })
            .await
            .expect("routed");
        for queue in ["all", "eu", "paid", "exact"] {
            let delivery = broker.get(queue).await.expect("readable");
            assert_eq!(delivery.is_some(), reached.contains(&queue), "{exchange} {key} {queue}");
            if let Some(delivery) = delivery {
                assert_eq!((&*delivery.exchange, &*delivery.routing_key), (exchange, key));
                delivery.ack();
            }
        }
    }
    let miss = Publication { exchange: "topic".into(), routing_key: "invoice".into(), ..to_queue("", "x") };
    assert!(broker.publish(miss).await.expect_err("no match").is_unroutable());
}

#[tokio::test]
async fn a_topology_with_a_mistake_makes_nothing() {
    let (_dir, broker) = fresh(&["q"]).await;
    let bind = |exchange: &str, queue: &str| Topology {
        queues: vec![Queue::new("new")],
        bindings: vec![Binding { exchange: exchange.into(), queue: queue.into(), routing_key: "k".into() }],
        ..Topology::default()
    };
    let error = broker.declare(&bind("mail", "q")).await.expect_err("no exchange");
    assert!(error.is_topology() && error.to_string().contains("`q` to exchange `mail`"), "{error}");
    let fan = Topology { exchanges: vec![Exchange::new("fan", ExchangeKind::Fanout)], ..Topology::default() };
    broker.declare(&fan).await.expect("declared");
    let error = broker.declare(&bind("fan", "nobody")).await.expect_err("no queue");
    assert!(error.is_topology() && error.to_string().contains("`nobody`"), "{error}");
    assert_eq!(counts(&*broker, "new").await, None, "half of a topology was made");
    let headers =
        Topology { exchanges: vec![Exchange::new("h", ExchangeKind::Headers)], ..Topology::default() };
    assert!(broker.declare(&headers).await.expect_err("RabbitMQ only").is_unsupported());
    let direct =
        Topology { exchanges: vec![Exchange::new("fan", ExchangeKind::Direct)], ..Topology::default() };
    assert!(broker.declare(&direct).await.expect_err("other kind").is_topology());
}

#[tokio::test]
async fn delays_are_exact_and_counted() {
    let (_dir, broker) = fresh(&["q"]).await;
    let mut consumer = consume(&*broker, &["q"], 10).await;
    let delays: [u64; 5] = [2400, 2300, 2200, 2100, 2000];
    let mut due = Vec::new();
    for delay in delays {
        let delay = Duration::from_millis(delay);
        due.push(Instant::now() + delay);
        let publication = Publication { delay: Some(delay), ..to_queue("q", &due.len().to_string()) };
        broker.publish(publication).await.expect("published");
    }
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 5, 1)));
    let mut late = Vec::new();
    for expected in (1..=delays.len()).rev() {
        let delivery = next(&mut consumer).await;
        let now = Instant::now();
        assert_eq!(body(&delivery), expected.to_string());
        let due = due[expected - 1];
        assert!(now >= due, "message {expected} came {:?} early", due - now);
        late.push(now - due);
        delivery.ack();
    }
    // The machine may be busy for a while, but not for all five.
    let least = late.iter().min().expect("five of them");
    assert!(*least < Duration::from_millis(20), "all are late: {late:?}");
}

#[tokio::test]
async fn purge_takes_what_waits_and_delete_takes_all() {
    let (_dir, broker) = fresh(&["q", "other"]).await;
    for index in 0..5 {
        publish(&*broker, "q", &index.to_string()).await;
    }
    let delay = Some(Duration::from_secs(60));
    broker.publish(Publication { delay, ..to_queue("q", "later") }).await.expect("published");
    publish(&*broker, "other", "stays").await;
    let held = broker.get("q").await.unwrap().expect("one");
    assert_eq!(broker.purge("q").await.expect("purged"), 5);
    assert_eq!(counts(&*broker, "q").await, Some((0, 1, 0, 0)));
    broker.delete_queue("q").await.expect("deleted");
    held.requeue();
    assert_eq!(counts(&*broker, "q").await, None);
    declare(&*broker, Queue::new("q")).await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 0)), "a new queue has old messages");
    let names: Vec<String> = broker.queues(&[]).await.unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["other", "q"]);
}

#[tokio::test]
async fn a_consumer_goes_on_when_its_queue_is_made_again() {
    let (_dir, broker) = fresh(&["q"]).await;
    let mut consumer = consume(&*broker, &["q"], 1).await;
    broker.delete_queue("q").await.expect("deleted");
    declare(&*broker, Queue::new("q")).await;
    publish(&*broker, "q", "again").await;
    assert_eq!(body(&next(&mut consumer).await), "again");
}
