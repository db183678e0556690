//! Queues, exchanges and bindings are declared, inspected, purged and deleted.

use std::time::Duration;

use mq_worker::broker::{DeleteGuard, Position, Publication, Subscription};
use mq_worker::message::{Headers, Message};
use mq_worker::{Binding, Exchange, ExchangeKind, Queue, Topology};
use support::within;

use super::super::lab::*;

pub(crate) async fn declaring_twice_changes_nothing(lab: &Lab) {
    let broker = lab.open().await;
    let (queue, exchange) = (lab.name("work"), lab.name("news"));
    let topology = Topology {
        exchanges: vec![Exchange::new(&exchange, ExchangeKind::Direct)],
        queues: vec![Queue::new(&queue)],
        bindings: vec![Binding { exchange: exchange.clone(), queue: queue.clone(), routing_key: "k".into() }],
    };
    within("declare", LIMIT, broker.declare(&topology)).await.expect("declared");
    publish(&broker, via(&exchange, "k", "one")).await;
    within("declare again", LIMIT, broker.declare(&topology)).await.expect("declared again");
    within("declare elsewhere", LIMIT, lab.open().await.declare(&topology))
        .await
        .expect("declared elsewhere");
    publish(&broker, via(&exchange, "k", "two")).await;
    assert_eq!(drain(&broker, &queue).await, ["one", "two"]);
}

pub(crate) async fn a_queue_with_other_arguments_is_used_as_it_is(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    publish(&broker, to(&queue, "kept")).await;
    let other = lab.open().await;
    let changed = Queue {
        message_ttl: Some(Duration::from_millis(1)),
        dead_letter_exchange: Some(String::new()),
        dead_letter_routing_key: Some(lab.name("dead")),
        ..Queue::new(&queue)
    };
    declare(&other, [changed]).await;
    publish(&other, to(&queue, "usable")).await;
    tokio::time::sleep(QUIET).await;
    assert_eq!(drain(&other, &queue).await, ["kept", "usable"], "its messages have no time to live");
}

pub(crate) async fn a_binding_needs_its_exchange_and_queue(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let exchange = lab.exchange(&broker, ExchangeKind::Direct, &[]).await;
    for (exchange, queue) in [(lab.name("nowhere"), queue.clone()), (exchange.clone(), lab.name("nothing"))] {
        let binding = Binding { exchange, queue, routing_key: "k".into() };
        let topology = Topology { bindings: vec![binding], ..Topology::default() };
        let error = within("declare", LIMIT, broker.declare(&topology)).await.expect_err("half is missing");
        assert!(error.is_topology(), "{error:?}");
    }
    publish(&broker, to(&queue, "still usable")).await;
    assert_eq!(drain(&broker, &queue).await, ["still usable"]);
}

pub(crate) async fn names_may_be_odd(lab: &Lab) {
    let broker = lab.open().await;
    for name in ["名前 größer", "with space and / and %2f", "'; drop table messages; --", "\"#*.?&=", "a..b."]
    {
        let (queue, exchange) = (lab.name(name), lab.name(&format!("x {name}")));
        let topology = Topology {
            exchanges: vec![Exchange::new(&exchange, ExchangeKind::Direct)],
            queues: vec![Queue::new(&queue)],
            bindings: vec![Binding {
                exchange: exchange.clone(),
                queue: queue.clone(),
                routing_key: name.into(),
            }],
        };
        within("declare", LIMIT, broker.declare(&topology)).await.expect(name);
        publish(&broker, to(&queue, "straight")).await;
        publish(&broker, via(&exchange, name, "around")).await;
        let mut consumer = consume(&broker, &[&queue], 2).await;
        let straight = next(&mut consumer).await;
        assert_eq!((&*straight.queue, straight.routing_key.as_str()), (queue.as_str(), queue.as_str()));
        straight.ack();
        let around = next(&mut consumer).await;
        assert_eq!((around.exchange.as_str(), around.routing_key.as_str()), (exchange.as_str(), name));
        around.ack();
    }
    let longest = lab.name(&"n".repeat(255 - lab.name("").len()));
    assert_eq!(longest.len(), 255);
    declare(&broker, [Queue::new(&longest)]).await;
    publish(&broker, to(&longest, "fits")).await;
    assert_eq!(drain(&broker, &longest).await, ["fits"]);
}

pub(crate) async fn names_that_are_too_long_or_broken_are_refused(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let long = "n".repeat(256);
    for name in [long.as_str(), "", "line\nbreak", "nul\0", "amq.mine"] {
        let topology = Topology::of_queue(Queue::new(name));
        let error = within("declare", LIMIT, broker.declare(&topology)).await.expect_err(name);
        assert!(error.is_config(), "{name:?}: {error:?}");
    }
    let exchange = Exchange::new(&long, ExchangeKind::Topic);
    let topology = Topology { exchanges: vec![exchange], ..Topology::default() };
    let error = within("declare", LIMIT, broker.declare(&topology)).await.expect_err("too long");
    assert!(error.is_config(), "{error:?}");
    // 256 bytes in 128 letters: the limit is in bytes.
    let wide = "é".repeat(128);
    for (exchange, key) in [("", long.as_str()), ("", wide.as_str()), (long.as_str(), "k")] {
        let error = refused(&broker, via(exchange, key, "never")).await;
        assert!(error.is_config() || error.is_topology(), "{error:?}");
    }
    let subscription = Subscription { queues: vec![long.clone()], prefetch: 1, name: "lost".into() };
    assert!(within("consume", LIMIT, broker.consume(subscription)).await.is_err());
    assert!(within("get", LIMIT, broker.get(&long)).await.is_err());
    assert!(within("purge", LIMIT, broker.purge(&long)).await.is_err());
    publish(&broker, to(&queue, "still usable")).await;
    assert_eq!(drain(&broker, &queue).await, ["still usable"]);
}

pub(crate) async fn queues_reports_the_length_of_each(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let second = lab.name("second");
    declare(&broker, [Queue::new(&second)]).await;
    for n in 0..3 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    expect_ready(&broker, &queue, 3).await;
    let mut consumer = consume(&broker, &[&queue], 1).await;
    let held = next(&mut consumer).await;
    expect_ready(&broker, &queue, 2).await;
    support::eventually("the consumer is counted", LIMIT, || async {
        info(&broker, &queue).await.filter(|info| info.consumers == 1)
    })
    .await;
    match info(&broker, &queue).await.expect("it exists").running {
        Some(running) => assert_eq!(running, 1),
        None => assert!(lab.kind.is_rabbitmq(), "only AMQP has no word for messages that others hold"),
    }
    let names = [second.clone(), lab.name("nothing"), queue.clone()];
    let infos = within("queues", LIMIT, broker.queues(&names)).await.expect("an answer");
    let mut found: Vec<&str> = infos.iter().map(|info| info.name.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, [second.as_str(), queue.as_str()]);
    if broker.capabilities().lists_queues {
        let all = within("queues", LIMIT, broker.queues(&[])).await.expect("an answer");
        for name in [&queue, &second] {
            assert!(all.iter().any(|info| info.name == *name), "{name} is not listed");
        }
    }
    held.ack();
}

pub(crate) async fn purge_counts_what_it_drops(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for n in 0..5 {
        publish(&broker, to(&queue, n.to_string())).await;
    }
    let running = within("get", LIMIT, broker.get(&queue)).await.expect("an answer").expect("a message");
    expect_ready(&broker, &queue, 4).await;
    assert_eq!(within("purge", LIMIT, broker.purge(&queue)).await.expect("purged"), 4);
    assert_eq!(within("purge", LIMIT, broker.purge(&queue)).await.expect("purged"), 0);
    // Purging does not touch unsettled deliveries.
    drop(running);
    expect_ready(&broker, &queue, 1).await;
}

pub(crate) async fn a_deleted_queue_is_gone_with_its_messages(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Fanout, &[("gone", "")]).await;
    let queue = lab.name("gone");
    publish(&broker, to(&queue, "gone too")).await;
    within("delete", LIMIT, broker.delete_queue(&queue)).await.expect("deleted");
    assert_eq!(info(&broker, &queue).await, None);
    assert!(refused(&broker, to(&queue, "nowhere")).await.is_unroutable());
    assert!(refused(&broker, via(&exchange, "", "nowhere")).await.is_unroutable(), "its binding went too");
    let other = lab.open().await;
    declare(&other, [Queue::new(&queue)]).await;
    assert!(drain(&other, &queue).await.is_empty(), "a new queue is empty");
    assert!(refused(&other, via(&exchange, "", "nowhere")).await.is_unroutable(), "and not bound");
}

pub(crate) async fn a_queue_that_does_not_exist_is_an_error(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let missing = lab.name("nothing");
    let get = within("get", LIMIT, broker.get(&missing)).await.expect_err("no queue");
    let purge = within("purge", LIMIT, broker.purge(&missing)).await.expect_err("no queue");
    let subscription = Subscription { queues: vec![missing], prefetch: 1, name: "lost".into() };
    let consume = within("consume", LIMIT, broker.consume(subscription)).await.expect_err("no queue");
    for error in [get, purge, consume] {
        assert!(error.is_topology(), "{error:?}");
    }
    publish(&broker, to(&queue, "still usable")).await;
    assert_eq!(drain(&broker, &queue).await, ["still usable"]);
}

pub(crate) async fn a_queue_in_use_or_with_messages_is_kept_if_so_asked(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let (unused, empty) = (
        DeleteGuard { if_unused: true, ..DeleteGuard::default() },
        DeleteGuard { if_empty: true, ..DeleteGuard::default() },
    );
    publish(&broker, to(&queue, "kept")).await;
    let consumer = consume(&broker, &[&queue], 1).await;
    let kept =
        within("delete", LIMIT, broker.delete_queue_if(&queue, unused)).await.expect_err("it is in use");
    assert!(kept.is_topology() && kept.to_string().contains("in use"), "{kept}");
    within("cancel", LIMIT, consumer.control().cancel()).await;
    drop(consumer);
    // The message is being returned to the queue.
    expect_ready(&broker, &queue, 1).await;
    let kept = within("delete", LIMIT, broker.delete_queue_if(&queue, empty)).await.expect_err("not empty");
    assert!(kept.is_topology() && kept.to_string().contains("not empty"), "{kept}");
    assert_eq!(drain(&broker, &queue).await, ["kept"]);
    publish(&broker, to(&queue, "lost")).await;
    expect_ready(&broker, &queue, 1).await;
    let lost = within("delete", LIMIT, broker.delete_queue_if(&queue, unused)).await.expect("deleted");
    assert_eq!(lost, 1);
    let none = within("queues", LIMIT, broker.queues(std::slice::from_ref(&queue))).await.expect("asked");
    assert_eq!(none, []);
    let missing =
        within("delete", LIMIT, broker.delete_queue_if(&queue, unused)).await.expect_err("it is gone");
    assert!(missing.is_topology(), "{missing}");
}

pub(crate) async fn exchanges_can_be_listed_and_deleted(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &[("work", "a.*")]).await;
    let names = [lab.name("nowhere"), exchange.clone()];
    let found = within("exchanges", LIMIT, broker.exchanges(&names)).await.expect("asked");
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].name, exchange);
    assert!(found[0].kind.is_none_or(|kind| kind == ExchangeKind::Topic), "{found:?}");
    let binding = Binding { exchange: exchange.clone(), queue: lab.name("work"), routing_key: "a.*".into() };
    if lab.kind.is_rabbitmq() {
        // AMQP cannot list exchanges or bindings: the error says so.
        let error = within("exchanges", LIMIT, broker.exchanges(&[])).await.expect_err("cannot list");
        assert!(error.is_unsupported(), "{error}");
        let error = within("bindings", LIMIT, broker.bindings()).await.expect_err("cannot list");
        assert!(error.is_unsupported(), "{error}");
    } else {
        let all = within("exchanges", LIMIT, broker.exchanges(&[])).await.expect("listed");
        assert_eq!(all, found);
        assert_eq!(within("bindings", LIMIT, broker.bindings()).await.expect("listed"), [binding]);
    }
    let anyway = DeleteGuard::default();
    within("delete", LIMIT, broker.delete_exchange(&exchange, anyway)).await.expect("deleted");
    let found = within("exchanges", LIMIT, broker.exchanges(&names)).await.expect("asked");
    assert_eq!(found, []);
    let missing = within("delete", LIMIT, broker.delete_exchange(&exchange, anyway)).await.expect_err("gone");
    assert!(missing.is_topology(), "{missing}");
    let error = refused(&broker, via(&exchange, "a.b", "lost")).await;
    assert!(error.is_topology(), "{error}");
}

pub(crate) async fn an_exchange_in_use_is_kept_if_so_asked(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Direct, &[("work", "k")]).await;
    let unused = DeleteGuard { if_unused: true, ..DeleteGuard::default() };
    let kept = within("delete", LIMIT, broker.delete_exchange(&exchange, unused)).await.expect_err("in use");
    assert!(kept.is_topology() && kept.to_string().contains("in use"), "{kept}");
    publish(&broker, via(&exchange, "k", "still there")).await;
    assert_eq!(drain(&broker, &lab.name("work")).await, ["still there"]);
    within("delete", LIMIT, broker.delete_queue(&lab.name("work"))).await.expect("deleted");
    within("delete", LIMIT, broker.delete_exchange(&exchange, unused)).await.expect("nothing is bound to it");
}

pub(crate) async fn a_binding_can_be_removed(lab: &Lab) {
    let broker = lab.open().await;
    let exchange = lab.exchange(&broker, ExchangeKind::Topic, &[("work", "a.*"), ("work", "b.*")]).await;
    let binding = Binding { exchange: exchange.clone(), queue: lab.name("work"), routing_key: "a.*".into() };
    for _ in 0..2 {
        within("unbind", LIMIT, broker.unbind(&binding)).await.expect("once or twice");
    }
    let error = refused(&broker, via(&exchange, "a.1", "for nobody")).await;
    assert!(error.is_unroutable(), "{error}");
    publish(&broker, via(&exchange, "b.1", "for work")).await;
    assert_eq!(drain(&broker, &lab.name("work")).await, ["for work"]);
}

pub(crate) async fn the_oldest_message_has_an_age(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let oldest = || async { within("oldest", LIMIT, broker.oldest(&queue)).await.expect("asked") };
    assert_eq!(oldest().await, None);
    publish(&broker, to(&queue, "one")).await;
    tokio::time::sleep(QUIET).await;
    publish(&broker, to(&queue, "two")).await;
    // RabbitMQ does not report it, and looking would count as an attempt.
    let expected = (!lab.kind.is_rabbitmq()).then_some(QUIET);
    let age = oldest().await;
    assert!(age >= expected && age.is_some() == expected.is_some() && age < Some(LIMIT), "{age:?}");
    drain(&broker, &queue).await;
    assert_eq!(oldest().await, None);
}

pub(crate) async fn messages_are_looked_at_without_being_taken(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    for body in ["one", "two", "three"] {
        publish(&broker, to(&queue, body)).await;
    }
    let peek = async |most| within("peek", LIMIT, broker.peek(&queue, most)).await;
    if !broker.capabilities().peeks {
        // RabbitMQ can only deliver messages, not show them.
        assert!(peek(2).await.expect_err("unsupported").is_unsupported());
        return;
    }
    let bodies = async |most| {
        let messages = peek(most).await.expect("messages");
        messages.iter().map(|message| String::from_utf8_lossy(&message.body).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(bodies(2).await, ["one", "two"]);
    assert_eq!(bodies(10).await, ["one", "two", "three"]);
    let first = within("get", LIMIT, broker.get(&queue)).await.expect("an answer").expect("a message");
    assert!(body(&first) == "one" && !first.redelivered && first.crashes == Some(0), "{first:?}");
    assert_eq!(bodies(10).await, ["two", "three"], "what is delivered does not wait");
    first.ack();
    let large = vec![b'x'; 9 << 20];
    for _ in 0..3 {
        publish(
            &broker,
            Publication {
                message: Message { body: large.clone().into(), ..Message::default() },
                ..to(&queue, "")
            },
        )
        .await;
    }
    assert_eq!(peek(10).await.expect("messages").len(), 4, "no more than fits into memory");
    assert_eq!(within("peek", LIMIT, broker.peek(&lab.name("nothing"), 5)).await.expect("none"), []);
}

pub(crate) async fn a_message_is_found_by_its_id(lab: &Lab) {
    let (broker, queue) = lab.with_queue("work").await;
    let id = |name: &str| lab.name(name);
    let call = |name: &str| Publication {
        message: Message { headers: Headers::for_task("task", &id(name)), ..Message::default() },
        ..to(&queue, "")
    };
    let find = async |name: &str| within("find", LIMIT, broker.find(&id(name))).await;
    publish(&broker, to(&queue, "no call")).await;
    publish(&broker, call("one")).await;
    publish(&broker, Publication { delay: Some(Duration::from_secs(60)), ..call("later") }).await;
    if lab.kind.is_rabbitmq() {
        // RabbitMQ can only deliver messages, not search them.
        assert!(find("one").await.expect_err("unsupported").is_unsupported());
        return;
    }
    let found = find("one").await.expect("found");
    assert_eq!((found.len(), &found[0].queue, found[0].position), (1, &queue, Position::Ready { ahead: 1 }));
    assert_eq!(found[0].message.headers.task(), Some("task"));
    let Position::Delayed { until } = find("later").await.expect("found")[0].position else {
        panic!("it is delayed")
    };
    let left = until - chrono::Utc::now();
    assert!((55..=60).contains(&left.num_seconds()), "{left}");
    assert_eq!(find("other").await.expect("nothing"), []);
}
