//! Tests of what is special about the memory broker; common behaviour is in the conformance suite.

use std::time::{Duration, Instant};

use super::*;
use crate::broker::Delivery;
use crate::message::Message;
use crate::routing::{Exchange, ExchangeKind, Queue};

fn broker(name: &str) -> Arc<dyn Broker> {
    open(&format!("memory://unit-{name}").parse().expect("a URL"))
}

fn queues(queues: impl IntoIterator<Item = Queue>) -> Topology {
    Topology { queues: queues.into_iter().collect(), ..Topology::default() }
}

fn to(queue: &str, body: &str) -> Publication {
    let message = Message { body: body.to_owned().into(), ..Message::default() };
    Publication { routing_key: queue.into(), message, mandatory: true, ..Publication::default() }
}

fn subscription(queue: &str, prefetch: u16) -> Subscription {
    Subscription { queues: vec![queue.into()], prefetch, name: "unit".into() }
}

async fn ready(broker: &Arc<dyn Broker>, queue: &str) -> Option<u64> {
    let infos = broker.queues(&[queue.to_owned()]).await.expect("open");
    infos.first().map(|info| info.ready)
}

async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(Duration::from_secs(10), consumer.next())
        .await
        .expect("in time")
        .expect("a delivery")
}

#[test]
fn a_delay_survives_the_runtime_that_published() {
    let run = |future: BoxFuture<'static, ()>| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(future);
    };
    run(Box::pin(async {
        let broker = broker("runtimes");
        broker.declare(&queues([Queue::new("q")])).await.expect("declared");
        let delay = Some(Duration::from_millis(100));
        broker.publish(Publication { delay, ..to("q", "later") }).await.expect("published");
    }));
    run(Box::pin(async {
        let broker = broker("runtimes");
        let mut consumer = broker.consume(subscription("q", 1)).await.expect("the same queue");
        assert_eq!(&next(&mut consumer).await.message.body[..], b"later");
    }));
}

#[tokio::test]
async fn names_keep_queues_apart() {
    let (one, other) = (broker("one"), broker("other"));
    one.declare(&queues([Queue::new("q")])).await.expect("declared");
    one.publish(to("q", "here")).await.expect("published");
    assert_eq!(ready(&broker("one"), "q").await, Some(1));
    assert_eq!(ready(&other, "q").await, None);
}

#[tokio::test]
async fn an_exclusive_queue_is_closed_to_others() {
    let (mine, theirs) = (broker("exclusive"), broker("exclusive"));
    let topology = queues([Queue { exclusive: true, ..Queue::new("q") }]);
    mine.declare(&topology).await.expect("declared");
    mine.declare(&topology).await.expect("declared again");
    for error in [
        theirs.declare(&topology).await.expect_err("theirs"),
        theirs.get("q").await.expect_err("theirs"),
        theirs.purge("q").await.expect_err("theirs"),
        theirs.delete_queue("q").await.expect_err("theirs"),
        theirs.consume(subscription("q", 1)).await.expect_err("theirs"),
    ] {
        assert!(error.is_topology() && error.to_string().contains("exclusive"), "{error}");
    }
    theirs.publish(to("q", "welcome all the same")).await.expect("published");
    let consumer = mine.consume(subscription("q", 1)).await.expect("mine");
    drop(mine);
    assert_eq!(ready(&theirs, "q").await, Some(0), "the consumer keeps the connection");
    drop(consumer);
    assert_eq!(ready(&theirs, "q").await, None);
}

#[tokio::test]
async fn a_queue_that_nobody_uses_expires() {
    let broker = broker("expires");
    let expires = Some(Duration::from_millis(150));
    broker.declare(&queues([Queue { expires, ..Queue::new("q") }])).await.expect("declared");
    let consumer = broker.consume(subscription("q", 1)).await.expect("it exists");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(ready(&broker, "q").await, Some(0), "it is in use");
    drop(consumer);
    let begin = Instant::now();
    while ready(&broker, "q").await.is_some() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it is still there");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(begin.elapsed() >= Duration::from_millis(100), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn dead_letters_that_go_round_in_a_circle_end() {
    let broker = broker("circle");
    let dying = |name: &str, next: &str| Queue {
        message_ttl: Some(Duration::ZERO),
        dead_letter_exchange: Some(String::new()),
        dead_letter_routing_key: Some(next.into()),
        ..Queue::new(name)
    };
    let narrow =
        |name: &str, next: &str| Queue { max_length: Some(0), message_ttl: None, ..dying(name, next) };
    let circles = [dying("a", "b"), dying("b", "a"), dying("own", "own"), narrow("n", "m"), narrow("m", "n")];
    broker.declare(&queues(circles)).await.expect("declared");
    for queue in ["a", "own", "n"] {
        broker.publish(to(queue, "round")).await.expect("published");
    }
    for queue in ["a", "b", "own", "n", "m"] {
        assert_eq!(ready(&broker, queue).await, Some(0), "{queue}");
    }
}

#[tokio::test]
async fn consumers_take_turns() {
    let broker = broker("turns");
    broker.declare(&queues([Queue::new("q")])).await.expect("declared");
    let mut consumers = Vec::new();
    for _ in 0..3 {
        consumers.push(broker.consume(subscription("q", 10)).await.expect("it exists"));
    }
    for n in 0..6 {
        broker.publish(to("q", &n.to_string())).await.expect("published");
    }
    for (index, consumer) in consumers.iter_mut().enumerate() {
        for n in [index, index + 3] {
            let delivery = next(consumer).await;
            assert_eq!(&delivery.message.body[..], n.to_string().as_bytes());
            delivery.ack();
        }
    }
}

#[tokio::test]
async fn a_verdict_on_a_queue_that_was_made_anew_does_nothing() {
    let broker = broker("anew");
    broker.declare(&queues([Queue::new("q")])).await.expect("declared");
    broker.publish(to("q", "old")).await.expect("published");
    let mut consumer = broker.consume(subscription("q", 1)).await.expect("it exists");
    let held = next(&mut consumer).await;
    broker.delete_queue("q").await.expect("deleted");
    assert!(consumer.next().await.is_none(), "its only queue has gone");
    broker.declare(&queues([Queue::new("q")])).await.expect("declared");
    held.requeue();
    let info = broker.queues(&["q".to_owned()]).await.expect("open").remove(0);
    assert_eq!((info.ready, info.running), (0, Some(0)));
}

#[tokio::test]
async fn an_auto_delete_exchange_goes_with_its_last_binding() {
    let broker = broker("auto-delete");
    let exchange = Exchange { auto_delete: true, ..Exchange::new("x", ExchangeKind::Fanout) };
    let binding = |queue: &str| crate::routing::Binding {
        exchange: "x".into(),
        queue: queue.into(),
        routing_key: String::new(),
    };
    let topology = Topology {
        exchanges: vec![exchange],
        queues: vec![Queue::new("q"), Queue::new("r")],
        bindings: vec![binding("q"), binding("r")],
    };
    broker.declare(&topology).await.expect("declared");
    let publication = || Publication { exchange: "x".into(), ..to("", "news") };
    broker.delete_queue("q").await.expect("deleted");
    broker.publish(publication()).await.expect("one binding is left");
    broker.delete_queue("r").await.expect("deleted");
    assert!(broker.publish(publication()).await.expect_err("it has gone").is_topology());
}

#[tokio::test]
async fn the_clock_holds_no_thread_when_there_is_nothing_to_wait_for() {
    let clocks = || {
        let names = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        names
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .filter(|name| name.starts_with("mq-memory-clock"))
            .count()
    };
    let broker = broker("clock");
    broker.declare(&queues([Queue::new("q")])).await.expect("declared");
    for _ in 0..100 {
        let delay = Some(Duration::from_secs(2));
        broker.publish(Publication { delay, ..to("q", "later") }).await.expect("published");
    }
    // A thread has its name only once it runs.
    let begin = Instant::now();
    while clocks() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(1), "no clock runs, and something is to be waited for");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(clocks() < 20, "one clock for all, beside those of other tests: {}", clocks());
    let mut consumer = broker.consume(subscription("q", 100)).await.expect("it exists");
    for _ in 0..100 {
        next(&mut consumer).await.ack();
    }
    let begin = Instant::now();
    // Other tests of this process may wait for something, but not this long.
    while clocks() > 0 {
        assert!(begin.elapsed() < Duration::from_secs(30), "the clock still runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
