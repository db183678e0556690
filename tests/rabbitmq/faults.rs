//! Faults that a connection must survive.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mq_worker::broker::{self, Consumer};
use mq_worker::{QueueKind, Topology};
use support::Node;
use support::shared::may_start_rabbitmq;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use super::fixture::{Detour, Fixture, SOON, id, next, options, to, until, url};

#[tokio::test]
async fn a_wrong_password_or_a_missing_vhost_is_told_at_once() {
    let Some(url) = url() else { return };
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let host = rest.rsplit('@').next().expect("a host").split('/').next().expect("a host");
    for (bad, word) in [
        (format!("{scheme}://guest:5ecret-pa55@{host}/%2f"), "refused"),
        (format!("{scheme}://{}/no-such-vhost", rest.split('/').next().expect("a host")), "no-such-vhost"),
    ] {
        let broker = broker::open(&bad.parse().expect("a URL"), &options()).await.expect("not tried yet");
        let begun = Instant::now();
        for error in [
            broker.publish(to("q", "i")).await.expect_err("refused"),
            broker.declare(&Topology::default()).await.expect_err("refused"),
            broker.get("q").await.map(drop).expect_err("refused"),
        ] {
            let text = format!("{error:#} {error:?}");
            assert!(error.is_access_refused() && text.contains(word), "{text}");
            assert!(!text.contains("5ecret"), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
        broker.close().await;
    }
}

#[tokio::test]
async fn a_silent_or_missing_server_is_an_error_in_time() {
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = mute.local_addr().expect("bound");
    let listening = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = mute.accept().await {
            held.push(stream);
        }
    });
    // A port without a listener.
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    for address in [address, closed] {
        let url = format!("amqp://guest:5ecret@{address}");
        let options = mq_worker::ConnectOptions { timeout: Duration::from_secs(2), ..options() };
        let broker = broker::open(&url.parse().expect("a URL"), &options).await.expect("not tried yet");
        let begun = Instant::now();
        let (published, declared) = tokio::join!(broker.publish(to("q", "i")), broker.purge("q"));
        for error in [published.expect_err("no server"), declared.map(drop).expect_err("no server")] {
            let text = format!("{error:#} {error:?}");
            assert!(error.is_connection() && !error.is_unknown() && !text.contains("5ecret"), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        timeout(Duration::from_secs(8), broker.close()).await.expect("closing ends");
    }
    listening.abort();
}

/// Publishers and a worker continue while connections are cut several times in a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_connections_are_cut() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let tally = go_on(&t, kind, 300, Duration::ZERO, async {
            for pause in [300, 50, 400, 120, 700, 30] {
                sleep(Duration::from_millis(pause)).await;
                proxy.cut();
            }
        })
        .await;
        // At most the publishes in flight at each cut.
        assert!(tally.unknown <= 6 * CALLERS, "{kind:?}: {tally:?}");
        assert_eq!(
            (tally.lost, tally.twice),
            (0, 0),
            "{kind:?}: done ones are recognised when they come again"
        );
    }
    t.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_server_is_killed() {
    if !may_start_rabbitmq("the RabbitMQ broker") {
        return;
    }
    let mut node = tokio::task::spawn_blocking(Node::start).await.expect("a node");
    let options = mq_worker::ConnectOptions { timeout: Duration::from_secs(60), ..options() };
    let t = Fixture::with(&node.url(), options).await;
    for kind in [QueueKind::Classic, QueueKind::Quorum] {
        let tally = go_on(&t, kind, 400, Duration::from_secs(8), async {
            sleep(Duration::from_millis(500)).await;
            tokio::task::block_in_place(|| node.restart());
        })
        .await;
        assert_eq!(tally.lost, 0, "{kind:?}");
        assert!(tally.unknown <= CALLERS && tally.twice <= 50, "{kind:?}: {tally:?}");
    }
    t.end().await;
}

const CALLERS: usize = 8;

#[derive(Debug)]
struct Tally {
    lost: usize,
    unknown: usize,
    twice: usize,
}

/// Eight callers publish and a worker acks until the fault is over, the callers are done and the queue is empty.
async fn go_on(
    t: &Fixture,
    kind: QueueKind,
    each: usize,
    settle: Duration,
    fault: impl Future<Output = ()>,
) -> Tally {
    let queue = t.queue(&format!("{kind:?}"), |queue| queue.kind = Some(kind)).await;
    // RabbitMQ 3.10 is late to record on disk that a quorum queue exists: if it is killed right after the declaration, the
    // queue never elects a leader again and loses messages that were confirmed.
    sleep(settle).await;
    let mut consumer = t.consume(&queue, 50).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (broker, queue) = (std::sync::Arc::clone(&t.broker), queue.clone());
            tokio::spawn(async move {
                let (mut taken, mut unknown) = (Vec::new(), 0);
                for n in 0..each {
                    let name = format!("{caller}-{n}");
                    match broker.publish(to(&queue, &name)).await {
                        Ok(()) => taken.push(name),
                        Err(error) => {
                            assert_eq!(error.unknown_id(), Some(&*name), "{error:?}");
                            unknown += 1;
                        }
                    }
                    // Slow enough that the fault hits all of them.
                    sleep(Duration::from_millis(3)).await;
                }
                (taken, unknown)
            })
        })
        .collect();
    let mut runs: HashMap<String, u32> = HashMap::new();
    let consuming = async {
        loop {
            match timeout(Duration::from_secs(3), consumer.next()).await {
                Ok(delivery) => {
                    let delivery = delivery.expect("the stream goes on");
                    *runs.entry(id(&delivery)).or_default() += 1;
                    delivery.ack();
                }
                Err(_) if callers.iter().all(|caller| caller.is_finished()) && t.ready(&queue).await == 0 => {
                    break;
                }
                Err(_) => {}
            }
        }
    };
    tokio::join!(fault, consuming);
    let (mut taken, mut unknown) = (Vec::new(), 0);
    for caller in callers {
        let (names, not_known) = caller.await.expect("no panic");
        taken.extend(names);
        unknown += not_known;
    }
    until("the queue is empty", || async { t.ready(&queue).await == 0 }).await;
    let tally = Tally {
        lost: taken.iter().filter(|name| !runs.contains_key(*name)).count(),
        unknown,
        twice: runs.values().filter(|runs| **runs > 1).count(),
    };
    eprintln!("{kind:?}: {} taken, {tally:?}", taken.len());
    tally
}

/// The broker redelivers it while it runs here: it must not run twice, and the late ack must count.
#[tokio::test]
async fn a_task_that_runs_through_a_reconnect_runs_once() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    let queue = t.queue("q", |_| {}).await;
    for n in 0..3 {
        t.send(&queue, &n.to_string()).await.expect("taken");
    }
    let mut consumer = t.consume(&queue, 3).await;
    let [acked, given_back, second] =
        [next(&mut consumer).await, next(&mut consumer).await, next(&mut consumer).await];
    proxy.cut();
    t.broker.queues(&[]).await.expect("connected again");
    let more = timeout(Duration::from_millis(800), consumer.next()).await;
    assert!(more.is_err(), "it runs already: {more:?}");
    acked.ack();
    given_back.requeue();
    let again = next(&mut consumer).await;
    assert_eq!((id(&again).as_str(), again.redelivered), ("1", true));
    proxy.cut();
    again.ack();
    second.ack();
    consumer.control().flush().await;
    until("all acks arrived", || async {
        consumer.control().flush().await;
        t.ready(&queue).await == 0
    })
    .await;
    consumer.control().cancel().await;
    sleep(Duration::from_millis(300)).await;
    t.expect_ready(&queue, 0).await;
    t.end().await;
}

/// The ack of the redelivered copy is lost as well.
#[tokio::test]
async fn what_was_done_does_not_run_again_when_a_second_reconnect_follows() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "0").await.expect("taken");
    let mut consumer = t.consume(&queue, 1).await;
    let first = next(&mut consumer).await;
    let nothing_comes = async |consumer: &mut Consumer| {
        let more = timeout(Duration::from_secs(1), consumer.next()).await;
        assert!(more.is_err(), "it ran: {more:?}");
    };
    proxy.cut();
    t.broker.queues(&[]).await.expect("connected again");
    // The copy arrives and is held back until the run ends.
    nothing_comes(&mut consumer).await;
    proxy.stall(true);
    first.ack();
    // The ack is written but does not get through.
    nothing_comes(&mut consumer).await;
    proxy.cut();
    proxy.stall(false);
    t.broker.queues(&[]).await.expect("connected again");
    nothing_comes(&mut consumer).await;
    consumer.control().cancel().await;
    until("it is acked", || async { t.ready(&queue).await == 0 }).await;
    t.end().await;
}

#[tokio::test]
async fn publishers_wait_for_the_connection_within_their_deadline() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let options = mq_worker::ConnectOptions { timeout: Duration::from_secs(3), ..options() };
    let t = Fixture::with(&proxy.url, options).await;
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "before").await.expect("taken");
    proxy.refuse(true);
    proxy.cut();
    sleep(Duration::from_millis(600)).await;
    let begun = Instant::now();
    let error = t.send(&queue, "away").await.expect_err("no connection");
    assert!(error.is_connection() && error.to_string().contains("nothing was sent"), "{error}");
    assert!((2..5).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let (sent, ()) = tokio::join!(t.send(&queue, "patient"), async {
        sleep(Duration::from_millis(500)).await;
        proxy.refuse(false);
    });
    // It may have hit a long pause between two reconnect attempts.
    if sent.is_err() {
        t.send(&queue, "patient").await.expect("connected by now");
    }
    // A server that accepts the message but never confirms it.
    proxy.stall(true);
    let error = t.send(&queue, "stalled").await.expect_err("no confirm");
    assert_eq!(error.unknown_id(), Some("stalled"), "{error}");
    proxy.stall(false);
    until("publishing again", || async { t.send(&queue, "after").await.is_ok() }).await;
    t.end().await;
}

#[tokio::test]
async fn a_queue_deleted_under_its_consumer_is_made_again() {
    let Some(t) = Fixture::new().await else { return };
    let queue = t.queue("q", |_| {}).await;
    let mut consumer = t.consume(&queue, 5).await;
    t.send(&queue, "1").await.expect("taken");
    next(&mut consumer).await.ack();
    let other = Fixture::alone(&t.url).await;
    other.broker.delete_queue(&queue).await.expect("deleted");
    until("publishing works again", || async { t.send(&queue, "2").await.is_ok() }).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(id(&delivery), "2");
    delivery.ack();
    other.end().await;
    t.end().await;
}

#[tokio::test]
async fn exclusive_queues_and_their_bindings_come_back() {
    let Some(url) = url() else { return };
    let proxy = Detour::start(&url);
    let t = Fixture::alone(&proxy.url).await;
    let (queue, exchange) = (t.name("mine"), t.name("fanout"));
    let topology = Topology {
        exchanges: vec![mq_worker::Exchange {
            auto_delete: true,
            durable: false,
            ..mq_worker::Exchange::new(exchange.clone(), mq_worker::ExchangeKind::Fanout)
        }],
        queues: vec![mq_worker::Queue {
            exclusive: true,
            durable: false,
            auto_delete: true,
            ..mq_worker::Queue::new(queue.clone())
        }],
        bindings: vec![mq_worker::Binding {
            exchange: exchange.clone(),
            queue: queue.clone(),
            routing_key: String::new(),
        }],
    };
    t.broker.declare(&topology).await.expect("declared");
    let mut consumer = t.consume(&queue, 5).await;
    for round in 0..3 {
        let publication =
            || broker::Publication { exchange: exchange.clone(), ..to("k", &round.to_string()) };
        until("published", || async { t.broker.publish(publication()).await.is_ok() }).await;
        let delivery = timeout(SOON, next(&mut consumer)).await.expect("in time");
        assert_eq!(id(&delivery), round.to_string());
        delivery.ack();
        proxy.cut();
        sleep(Duration::from_millis(100)).await;
    }
    t.end().await;
}

#[tokio::test]
async fn a_broker_is_used_from_many_runtimes_one_after_the_other() {
    let Some(url) = url() else { return };
    let t = Fixture::alone(&url).await;
    let queue = t.queue("q", |_| {}).await;
    for n in 0..3 {
        let (broker, queue) = (std::sync::Arc::clone(&t.broker), queue.clone());
        std::thread::spawn(move || {
            // Not even a timer is required.
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(broker.publish(to(&queue, &n.to_string()))).expect("taken");
            let got = runtime.block_on(broker.get(&queue)).expect("an answer").expect("a message");
            drop(runtime);
            got.ack();
        })
        .join()
        .expect("no panic");
    }
    t.end().await;
}
