//! Events and plain messages: for tasks that subscribe, and for programs in other languages.

use serde::Serialize;
use uuid::Uuid;

use super::{App, Payload};
use crate::broker::Publication;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Properties;
use crate::routing::names::check_key;
use crate::routing::{EmitTo, Exchange, ExchangeKind, Topology};

/// Whether an event has subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an event that nobody subscribes to is not kept"]
pub enum Emitted {
    /// Every queue with a matching subscription has a copy.
    Queued,
    /// No subscription matches: there is no copy anywhere.
    Unrouted,
}

impl App {
    /// Publishes an event to all subscribers of a topic. Each queue that has a task with a matching
    /// `#[task(topic = "..")]` gets one copy, as JSON.
    ///
    /// The topic is a string, or a [`Topic`](crate::Topic), which has the type of its events.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// # #[derive(serde::Serialize)] struct Order { id: u64 }
    /// use mq_worker::Emitted;
    ///
    /// if app.emit("order.eu.paid", &Order { id: 7 }).await? == Emitted::Unrouted {
    ///     eprintln!("nobody wants paid orders");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As for [`App::send`], except that an event without subscribers is not an error: see [`Emitted`].
    pub async fn emit<T: Serialize + ?Sized>(&self, topic: impl EmitTo<T>, event: &T) -> Result<Emitted> {
        let key = topic.routing_key()?.into_owned();
        check_key(&key)?;
        let payload = Payload::json(event)?;
        let exchange = &self.config().topic_exchange;
        self.ensure_exchange(exchange, ExchangeKind::Topic).await?;
        let mut done = self.publish(exchange, &key, payload.clone()).await;
        if done.as_ref().is_err_and(Error::is_topology) {
            // The exchange was deleted since this process declared it.
            self.forget_declared();
            self.ensure_exchange(exchange, ExchangeKind::Topic).await?;
            done = self.publish(exchange, &key, payload).await;
        }
        match done {
            Ok(()) => Ok(Emitted::Queued),
            Err(error) if error.is_unroutable() => Ok(Emitted::Unrouted),
            Err(error) => Err(error),
        }
    }

    /// Publishes a plain message: text, bytes or JSON, for a consumer in any language. With the empty exchange, the
    /// routing key is the name of the queue.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// app.publish("", "hello", "Hello World").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`is_unroutable`](Error::is_unroutable) if no queue takes it, [`is_topology`](Error::is_topology) if the exchange
    /// does not exist.
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: impl Into<Payload>,
    ) -> Result<()> {
        self.publish_with(exchange, routing_key, payload.into(), Properties::default()).await
    }

    /// Publishes a plain message with the given properties.
    pub(crate) async fn publish_with(
        &self,
        exchange: &str,
        routing_key: &str,
        payload: Payload,
        properties: Properties,
    ) -> Result<()> {
        check_key(routing_key)?;
        let (size, limit) = (payload.bytes().len(), self.config().max_message_size);
        if size > limit {
            let what = format!(
                "cannot publish to `{routing_key}`: the payload is {size} bytes, the limit is {limit}"
            );
            return Err(Error::new(ErrorKind::TooLarge, what));
        }
        let properties = Properties {
            // Distinguishes copies of one message from two equal messages.
            message_id: Some(Uuid::now_v7().to_string()),
            ..properties
        };
        let publication = Publication {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            message: payload.into_message(properties),
            delay: None,
            mandatory: true,
        };
        let publish = async || self.broker().await?.publish(publication).await;
        publish().await.map_err(|error| match exchange {
            "" => error.context(format_args!("cannot publish to queue `{routing_key}`")),
            _ => error
                .context(format_args!("cannot publish to exchange `{exchange}` with key `{routing_key}`")),
        })
    }

    /// Ensures that an exchange exists, once per process.
    pub(crate) async fn ensure_exchange(&self, name: &str, kind: ExchangeKind) -> Result<()> {
        let key = format!("exchange {name}");
        // Configured exchanges are declared together with the configured topology.
        let configured = &self.config().topology.exchanges;
        if self.is_declared(&key) || configured.iter().any(|exchange| exchange.name == name) {
            return Ok(());
        }
        let topology = Topology { exchanges: vec![Exchange::new(name, kind)], ..Topology::default() };
        self.broker().await?.declare(&topology).await?;
        self.set_declared(key);
        Ok(())
    }
}
