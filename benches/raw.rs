//! The raw client, tuned as far as we know how: confirms pipelined, many deliveries acknowledged at once.

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use crate::{User, windowed};

/// One connection with one channel.
pub(crate) struct Raw {
    // Closes the channel when dropped.
    _connection: Connection,
    channel: Channel,
    queue: &'static str,
}

impl Raw {
    /// Connects. The queue must exist.
    pub(crate) async fn connect(url: &str, queue: &'static str) -> Self {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.expect("a connection");
        let channel = connection.create_channel().await.expect("a channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        Self { _connection: connection, channel, queue }
    }

    /// Publishes the same bytes as the framework does, and awaits every confirm.
    pub(crate) async fn publish(&self, n: u64, window: usize) {
        windowed(n, window, |id| async move {
            let body = serde_json::to_vec(&((User::new(id),), Empty {}, Empty {})).expect("JSON");
            let mut headers = FieldTable::default();
            headers.insert("id".into(), AMQPValue::LongString(uuid::Uuid::now_v7().to_string().into()));
            headers.insert("task".into(), AMQPValue::LongString("noop".into()));
            let properties = BasicProperties::default()
                .with_content_type("application/json".into())
                .with_content_encoding("utf-8".into())
                .with_delivery_mode(2)
                .with_headers(headers);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let publish =
                self.channel.basic_publish("".into(), self.queue.into(), options, &body, properties);
            publish.await.expect("published").await.expect("confirmed");
        })
        .await;
    }

    /// Takes `n` messages, parses each, and acknowledges what has arrived with one frame.
    pub(crate) async fn drain(&self, n: u64) {
        self.channel.basic_qos(1000, BasicQosOptions::default()).await.expect("a prefetch");
        let mut consumer = self
            .channel
            .basic_consume(
                self.queue.into(),
                "raw".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("a consumer");
        let mut done = 0;
        while done < n {
            let mut last = consumer.next().await.expect("a delivery").expect("a delivery");
            let mut batch = 1;
            parse(&last.data);
            while batch < 200
                && let Some(Some(more)) = futures_util::FutureExt::now_or_never(consumer.next())
            {
                last = more.expect("a delivery");
                parse(&last.data);
                batch += 1;
            }
            last.ack(BasicAckOptions { multiple: true }).await.expect("acknowledged");
            done += batch;
        }
    }
}

fn parse(body: &[u8]) {
    let (args, _, _): ((User,), serde_json::Value, serde_json::Value) =
        serde_json::from_slice(body).expect("a body");
    std::hint::black_box(args);
}

#[derive(serde::Serialize)]
struct Empty {}
