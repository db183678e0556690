//! Events and plain messages: for tasks that subscribe, and for programs in other languages.

use bytes::Bytes;
use serde::Serialize;
use uuid::Uuid;

use super::App;
use crate::broker::Publication;
use crate::error::{Error, ErrorKind, Result};
use crate::message::{JSON, Message, Properties};
use crate::routing::topology::check_key;
use crate::routing::{Exchange, ExchangeKind, Topology};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an event that nobody subscribes to is not kept"]
pub enum Emitted {
    /// Every queue with a matching subscription has a copy.
    Queued,
    /// No subscription matches: there is no copy anywhere.
    Unheard,
}

/// The body of a plain message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    content_type: &'static str,
    body: Bytes,
}

impl Payload {
    /// A JSON document.
    ///
    /// # Errors
    /// A value that has no JSON form.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let body = serde_json::to_vec(value)
            .map_err(|error| Error::codec("cannot write the payload as JSON").with_source(error))?;
        Ok(Self { content_type: JSON, body: body.into() })
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        String::from(text).into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self { content_type: "text/plain", body: text.into() }
    }
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Self {
        Self { content_type: "application/octet-stream", body }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(body: Vec<u8>) -> Self {
        Bytes::from(body).into()
    }
}

impl App {
    /// Tells every subscriber of `topic` that something happened. Each queue that has a task with a matching
    /// `#[task(topic = "..")]` gets one copy, as JSON.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// # #[derive(serde::Serialize)] struct Order { id: u64 }
    /// use mq_worker::Emitted;
    ///
    /// if app.emit("order.eu.paid", &Order { id: 7 }).await? == Emitted::Unheard {
    ///     eprintln!("nobody wants paid orders");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`App::send`], except that it is no error when nobody listens: see [`Emitted`].
    pub async fn emit<T: Serialize + ?Sized>(&self, topic: &str, event: &T) -> Result<Emitted> {
        let exchange = &self.config().topic_exchange;
        self.ensure_exchange(exchange, ExchangeKind::Topic).await?;
        match self.publish(exchange, topic, Payload::json(event)?).await {
            Ok(()) => Ok(Emitted::Queued),
            Err(error) if error.is_unroutable() => Ok(Emitted::Unheard),
            Err(error) => Err(error),
        }
    }

    /// Publishes a plain message: text, bytes or JSON, for a consumer in any language. The empty exchange goes
    /// to the queue that the routing key names.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// app.publish("", "hello", "Hello World").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`is_unroutable`](Error::is_unroutable) when no queue takes it, [`is_topology`](Error::is_topology) when
    /// there is no such exchange.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: impl Into<Payload>,
    ) -> Result<()> {
        let Payload { content_type, body } = payload.into();
        check_key(routing_key)?;
        let limit = self.config().max_message_size;
        if body.len() > limit {
            let size = body.len();
            let what = format!(
                "cannot publish to `{routing_key}`: the payload is {size} bytes, the limit is {limit}"
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let properties = Properties {
            content_type: Some(content_type.into()),
            // Tells copies of one message apart from two messages that are alike.
            message_id: Some(Uuid::now_v7().to_string()),
            ..Properties::default()
        };
        let publication = Publication {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            message: Message { properties, body, ..Message::default() },
            delay: None,
            mandatory: true,
        };
        self.broker().await?.publish(publication).await.map_err(|error| {
            error.context(format_args!("cannot publish to exchange `{exchange}` with key `{routing_key}`"))
        })
    }

    /// Makes sure that an exchange exists, once per process.
    pub(crate) async fn ensure_exchange(&self, name: &str, kind: ExchangeKind) -> Result<()> {
        let key = format!("exchange {name}");
        if self.is_declared(&key) {
            return Ok(());
        }
        let topology = Topology { exchanges: vec![Exchange::new(name, kind)], ..Topology::default() };
        self.broker().await?.declare(&topology).await?;
        self.set_declared(key);
        Ok(())
    }
}
