//! The raw client, tuned as far as we know how: confirms pipelined, many deliveries acknowledged at once.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};

use crate::Failure;
use crate::framework::PREFETCH;
use crate::measure::{Begun, Figures, latency as latency_of};
use crate::work::{QUEUE, body, parse};

async fn connect(at: &str) -> Result<(Connection, Channel), Failure> {
    let connection = Connection::connect(at, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Publishes the same bytes as mq-worker.
async fn publish(
    channel: &Channel,
    id: u64,
) -> lapin::Result<impl Future<Output = lapin::Result<lapin::Confirmation>>> {
    let body = body(id);
    let mut headers = FieldTable::default();
    headers.insert("id".into(), AMQPValue::LongString(uuid::Uuid::now_v7().to_string().into()));
    headers.insert("task".into(), AMQPValue::LongString("noop".into()));
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_delivery_mode(2)
        .with_headers(headers);
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    channel.basic_publish("".into(), QUEUE.into(), options, &body, properties).await
}

/// Publishes and awaits every confirm, up to `window` at once.
pub(crate) async fn enqueue(at: &str, tasks: u64, window: usize) -> Result<Figures, Failure> {
    let (connection, channel) = connect(at).await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let begun = Begun::now();
    let mut flying = FuturesUnordered::new();
    for id in 0..tasks {
        if flying.len() >= window {
            flying.next().await.transpose()?;
        }
        let channel = &channel;
        flying.push(async move { publish(channel, id).await?.await });
    }
    while let Some(confirmed) = flying.next().await {
        confirmed?;
    }
    let figures = begun.end(tasks)?;
    drop(flying);
    connection.close(200, "done".into()).await?;
    Ok(figures)
}

async fn consume(channel: &Channel) -> Result<Consumer, Failure> {
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(QUEUE.into(), "raw".into(), options, FieldTable::default()).await?)
}

/// Takes messages, parses each, and acknowledges what has arrived with one frame.
pub(crate) async fn drain(at: &str, tasks: u64) -> Result<Figures, Failure> {
    let (connection, channel) = connect(at).await?;
    let mut consumer = consume(&channel).await?;
    let mut begun = None;
    let mut done = 0;
    while done < tasks {
        let mut last = consumer.next().await.ok_or("the consumer ended")??;
        begun.get_or_insert_with(Begun::now);
        parse(&last.data);
        done += 1;
        for _ in 1..200 {
            let Some(Some(more)) = consumer.next().now_or_never() else { break };
            last = more?;
            parse(&last.data);
            done += 1;
        }
        last.ack(BasicAckOptions { multiple: true }).await?;
    }
    let figures = begun.ok_or("nothing to drain")?.end(tasks)?;
    connection.close(200, "done".into()).await?;
    Ok(figures)
}

/// Measures the times from the publish to the delivery and to the confirm.
pub(crate) async fn latency(at: &str, tasks: u64) -> Result<Figures, Failure> {
    let (connection, channel) = connect(at).await?;
    let mut consumer = consume(&channel).await?;
    let (publishing, publisher) = connect(at).await?;
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut times = Vec::new();
    for id in 0..tasks {
        let begun = Instant::now();
        let confirmed = async {
            publish(&publisher, id).await?.await?;
            Ok::<_, Failure>(begun.elapsed())
        };
        let delivered = async {
            let delivery = consumer.next().await.ok_or("the consumer ended")??;
            parse(&delivery.data);
            let elapsed = begun.elapsed();
            delivery.ack(BasicAckOptions::default()).await?;
            Ok::<_, Failure>(elapsed)
        };
        times.push(tokio::try_join!(delivered, confirmed)?);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    connection.close(200, "done".into()).await?;
    publishing.close(200, "done".into()).await?;
    latency_of(times)
}
