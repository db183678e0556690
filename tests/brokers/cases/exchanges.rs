//! Routing: which queues get a copy of a message.

use std::sync::Arc;

use futures_util::future::join_all;
use mq_worker::ExchangeKind;
use mq_worker::broker::Publication;
use support::within;

use super::super::lab::*;

pub(crate) async fn a_direct_exchange_compares_keys(lab: &Lab) {
    let broker = lab.open().await;
    let bindings = [("red", "red"), ("blue", "blue"), ("both", "red"), ("both", "blue"), ("empty", "")];
    let exchange = lab.exchange(&broker, ExchangeKind::Direct, &bindings).await;
    for key in ["red", "blue", ""] {
        publish(&broker, via(&exchange, key, key)).await;
    }
    assert!(refused(&broker, via(&exchange, "re", "re")).await.is_unroutable());
    for (queue, expected) in
        [("red", vec!["red"]), ("blue", vec!["blue"]), ("both", vec!["red", "blue"]), ("empty", vec![""])]
    {
        assert_eq!(drain(&broker, &lab.name(queue)).await, expected, "{queue}");
    }
}

pub(crate) async fn a_fanout_exchange_copies_to_every_queue(lab: &Lab) {
    let broker = lab.open().await;
    let exchange =
        lab.exchange(&broker, ExchangeKind::Fanout, &[("a", ""), ("b", "key"), ("c", "other")]).await;
    publish(&broker, via(&exchange, "anything", "news")).await;
    for queue in ["a", "b", "c"] {
        let mut consumer = consume(&broker, &[&lab.name(queue)], 1).await;
        let copy = next(&mut consumer).await;
        assert_eq!((body(&copy).as_str(), copy.exchange.as_str()), ("news", exchange.as_str()), "{queue}");
        assert_eq!(copy.routing_key, "anything");
        copy.ack();
        expect_nothing(&mut consumer).await;
    }
}

pub(crate) async fn a_topic_exchange_matches_patterns(lab: &Lab) {
    let broker = lab.open().await;
    let bindings = [
        ("paid", "order.*.paid"),
        ("orders", "order.#"),
        ("all", "#"),
        ("two", "*.*"),
        ("exact", "order.eu.paid"),
        ("tail", "#.paid"),
    ];
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &bindings).await;
    for key in ["order.eu.paid", "order", "order.paid", "invoice.paid", "", "order.eu.de.paid"] {
        publish(&broker, via(&exchange, key, key)).await;
    }
    for (queue, expected) in [
        ("paid", vec!["order.eu.paid"]),
        ("orders", vec!["order.eu.paid", "order", "order.paid", "order.eu.de.paid"]),
        ("all", vec!["order.eu.paid", "order", "order.paid", "invoice.paid", "", "order.eu.de.paid"]),
        ("two", vec!["order.paid", "invoice.paid"]),
        ("exact", vec!["order.eu.paid"]),
        ("tail", vec!["order.eu.paid", "order.paid", "invoice.paid", "order.eu.de.paid"]),
    ] {
        assert_eq!(drain(&broker, &lab.name(queue)).await, expected, "{queue}");
    }
}

pub(crate) async fn two_bindings_to_one_queue_make_one_copy(lab: &Lab) {
    let broker = lab.open().await;
    let bindings = [("work", "a.*"), ("work", "*.b"), ("work", "#")];
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &bindings).await;
    publish(&broker, via(&exchange, "a.b", "once")).await;
    assert_eq!(drain(&broker, &lab.name("work")).await, ["once"]);
}

pub(crate) async fn a_mandatory_message_without_a_queue_is_unroutable(lab: &Lab) {
    let broker = lab.open().await;
    let error = refused(&broker, to(&lab.name("nothing"), "lost")).await;
    assert!(error.is_unroutable(), "{error:?}");
    assert!(error.to_string().contains(&lab.name("nothing")), "it says where to: {error}");
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &[("work", "a.*")]).await;
    let error = refused(&broker, via(&exchange, "b.c", "lost")).await;
    assert!(error.is_unroutable(), "{error:?}");
}

pub(crate) async fn a_message_that_is_not_mandatory_may_vanish(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let mandatory = false;
    publish(&broker, Publication { mandatory, ..to(&lab.name("nothing"), "reply to nobody") }).await;
    let exchange = lab.exchange(&broker, ExchangeKind::Direct, &[]).await;
    publish(&broker, Publication { mandatory, ..via(&exchange, "k", "nobody listens") }).await;
    publish(&broker, Publication { mandatory, ..to(&queue, "arrives") }).await;
    assert_eq!(drain(&broker, &queue).await, ["arrives"]);
}

pub(crate) async fn a_missing_exchange_is_an_error_that_leaves_the_broker_usable(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let missing = lab.name("no such exchange");
    for mandatory in [true, false] {
        let error = refused(&broker, Publication { mandatory, ..via(&missing, "k", "lost") }).await;
        assert!(error.is_topology(), "{error:?}");
        assert!(error.to_string().contains(&missing), "it says which: {error}");
    }
    publish(&broker, to(&queue, "usable")).await;
    assert_eq!(drain(&broker, &queue).await, ["usable"]);
}

pub(crate) async fn an_unroutable_publish_among_many_fails_only_its_caller(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let nothing = lab.name("nothing");
    let is_lost = |n: usize| n.is_multiple_of(7);
    let publishes = (0..500).map(|n| {
        let target = if is_lost(n) { &nothing } else { &queue };
        let (broker, publication) = (Arc::clone(&broker), to(target, n.to_string()));
        tokio::spawn(async move { (n, broker.publish(publication).await) })
    });
    for outcome in within("500 publishes", LIMIT * 2, join_all(publishes)).await {
        let (n, outcome) = outcome.expect("no panic");
        match outcome {
            Ok(()) => assert!(!is_lost(n), "{n} was not taken by any queue, and yet it is Ok"),
            Err(error) => assert!(is_lost(n) && error.is_unroutable(), "{n}: {error:?}"),
        }
    }
    expect_ready(&broker, &queue, (0..500).filter(|n| !is_lost(*n)).count() as u64).await;
}
