//! The RabbitMQ broker compared with raw `lapin`, interleaved in one run on the same messages.
//!
//! ```console
//! $ MQ_BENCH_AMQP_URL=amqp://localhost cargo run --release -p mq-worker-benches --bin rabbitmq_broker
//! ```

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use mq_worker::broker::{self, Broker, Publication, Subscription};
use mq_worker::message::{Headers, Message};
use mq_worker::{ConnectOptions, Queue, QueueKind, TlsOptions, Topology};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const ROUNDS: usize = 5;
const BODY: &[u8] = br#"[[{"id":12345,"name":"Ada Lovelace","email":"ada@example.org"}],{},{}]"#;

fn main() -> Result<()> {
    let url = std::env::var("MQ_BENCH_AMQP_URL")
        .map_err(|_| "set MQ_BENCH_AMQP_URL to a RabbitMQ that may be loaded, such as amqp://localhost")?;
    let count = std::env::args().nth(1).map_or(Ok(20_000), |count| count.parse())?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run(&url, count))
}

async fn run(url: &str, count: usize) -> Result<()> {
    for kind in [QueueKind::Quorum, QueueKind::Classic] {
        let name = format!("mq-worker.bench.{kind:?}");
        let raw = Raw::open(url, &name).await?;
        let framework = Framework::open(url, &name, kind).await?;
        let mut rates: Vec<(&str, Vec<f64>)> = Vec::new();
        let mut note = |what, rate| match rates.iter_mut().find(|(name, _)| *name == what) {
            Some((_, all)) => all.push(rate),
            None => rates.push((what, vec![rate])),
        };
        for _ in 0..ROUNDS {
            note("publish: lapin, 1000 in flight", raw.publish(count).await?);
            note("drain: lapin, multiple acks", raw.drain(count).await?);
            note("publish: broker, 1000 callers", framework.publish(count, 1000).await?);
            note("drain: broker", framework.drain(count).await?);
            note("publish: broker, 64 callers", framework.publish(count, 64).await?);
            note("drain: broker", framework.drain(count).await?);
            note("publish: lapin, 64 in flight", raw.publish_window(count, 64).await?);
            note("drain: lapin, multiple acks", raw.drain(count).await?);
        }
        framework.broker.delete_queue(&name).await?;
        framework.broker.close().await;
        report(&format!("{kind:?} queue, {count} messages, medians of {ROUNDS}"), rates);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a report is what this program is for")]
fn report(title: &str, rates: Vec<(&str, Vec<f64>)>) {
    println!("\n{title}");
    let median = |all: &[f64]| {
        let mut all = all.to_vec();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let of =
        |what: &str| rates.iter().find(|(name, _)| *name == what).map_or(f64::NAN, |(_, all)| median(all));
    for (what, all) in &rates {
        let reference = match what.starts_with("publish") {
            true => of("publish: lapin, 1000 in flight"),
            false => of("drain: lapin, multiple acks"),
        };
        let (low, high) =
            all.iter().fold((f64::MAX, f64::MIN), |(low, high), rate| (low.min(*rate), high.max(*rate)));
        println!("{what:<32} {:>8.0}/s  [{low:.0}..{high:.0}]  x{:.2}", median(all), median(all) / reference);
    }
}

/// `lapin`, tuned by hand for speed.
struct Raw {
    connection: Connection,
    queue: String,
}

impl Raw {
    async fn open(url: &str, queue: &str) -> Result<Self> {
        let connection = Connection::connect(url, ConnectionProperties::default()).await?;
        Ok(Self { connection, queue: queue.to_owned() })
    }

    async fn publish(&self, count: usize) -> Result<f64> {
        self.publish_window(count, 1000).await
    }

    async fn publish_window(&self, count: usize, window: usize) -> Result<f64> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let begun = Instant::now();
        let mut writing = FuturesUnordered::new();
        let mut next = 0;
        let mut done = 0;
        while done < count {
            while next < count && writing.len() < window {
                let channel = &channel;
                let mut headers = FieldTable::default();
                headers.insert("id".into(), AMQPValue::LongString(next.to_string().into()));
                headers.insert("task".into(), AMQPValue::LongString("send_email".into()));
                let properties = BasicProperties::default().with_delivery_mode(2).with_headers(headers);
                writing.push(async move {
                    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
                    let queue = self.queue.as_str().into();
                    channel.basic_publish("".into(), queue, options, BODY, properties).await?.await
                });
                next += 1;
            }
            let confirmed = writing.next().await.ok_or("the window is empty")??;
            assert!(confirmed.is_ack());
            done += 1;
        }
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    async fn drain(&self, count: usize) -> Result<f64> {
        let channel = self.connection.create_channel().await?;
        channel.basic_qos(1000, BasicQosOptions::default()).await?;
        let (queue, tag) = (self.queue.as_str().into(), "bench".into());
        let mut consumer =
            channel.basic_consume(queue, tag, BasicConsumeOptions::default(), FieldTable::default()).await?;
        let begun = Instant::now();
        let mut done = 0;
        while done < count {
            let mut last = consumer.next().await.ok_or("the consumer ended")??;
            done += 1;
            for _ in 1..200 {
                let Some(Some(next)) = consumer.next().now_or_never() else { break };
                last = next?;
                done += 1;
            }
            last.ack(BasicAckOptions { multiple: true }).await?;
        }
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        channel.close(200, "done".into()).await?;
        Ok(rate)
    }
}

/// The broker that the rest of the framework builds on.
struct Framework {
    broker: Arc<dyn Broker>,
    queue: String,
}

impl Framework {
    async fn open(url: &str, queue: &str, queue_kind: QueueKind) -> Result<Self> {
        let options = ConnectOptions {
            timeout: std::time::Duration::from_secs(30),
            queue_kind,
            tls: TlsOptions::default(),
            name: "bench".into(),
        };
        let broker = broker::open(&url.parse()?, &options).await?;
        broker.declare(&Topology::of_queue(Queue::new(queue))).await?;
        broker.purge(queue).await?;
        Ok(Self { broker, queue: queue.to_owned() })
    }

    /// Each caller awaits its own confirm before it publishes again.
    async fn publish(&self, count: usize, callers: usize) -> Result<f64> {
        let begun = Instant::now();
        let calls: Vec<_> = (0..callers)
            .map(|caller| {
                let (broker, queue) = (Arc::clone(&self.broker), self.queue.clone());
                tokio::spawn(async move {
                    for n in (caller..count).step_by(callers) {
                        let message = Message {
                            headers: Headers::for_task("send_email", &n.to_string()),
                            body: BODY.into(),
                            ..Message::default()
                        };
                        let routing_key = queue.clone();
                        broker
                            .publish(Publication {
                                routing_key,
                                message,
                                mandatory: true,
                                ..Publication::default()
                            })
                            .await?;
                    }
                    mq_worker::Result::<()>::Ok(())
                })
            })
            .collect();
        for call in calls {
            call.await??;
        }
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    async fn drain(&self, count: usize) -> Result<f64> {
        let subscription =
            Subscription { queues: vec![self.queue.clone()], prefetch: 1000, name: "bench".into() };
        let begun = Instant::now();
        let mut consumer = self.broker.consume(subscription).await?;
        for _ in 0..count {
            consumer.next().await.ok_or("the consumer ended")?.ack();
        }
        consumer.control().flush().await;
        let rate = count as f64 / begun.elapsed().as_secs_f64();
        consumer.control().cancel().await;
        Ok(rate)
    }
}
