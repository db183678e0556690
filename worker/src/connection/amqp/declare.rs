//! Declares exchanges, queues and bindings: how each is written in AMQP.

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;

use super::channel::Scratch;
use super::codec::to_value;
use super::delay::{self, Rung};
use super::failure::{code, reply_code, text};
use crate::routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind};
use crate::tracing::warn;

/// The delivery limit of a quorum queue with a dead-letter exchange: it gives up on a message that has crashed many
/// workers.
const DELIVERY_LIMIT: i32 = 20;
/// Without a dead-letter exchange, a limit discards messages, for instance a dead letter that was inspected too often.
/// RabbitMQ 4 applies a limit of 20 unless the queue sets one, so it sets one that is never reached.
const NO_DELIVERY_LIMIT: i32 = i32::MAX;

impl Scratch {
    pub(super) async fn declare_exchange(&mut self, exchange: &Exchange) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            ..Default::default()
        };
        let kind = match exchange.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Headers => lapin::ExchangeKind::Headers,
        };
        let name = short(&exchange.name)?;
        let arguments = further(FieldTable::default(), &exchange.arguments)?;
        let declared = self.run(async |c| c.exchange_declare(name, kind, options, arguments).await).await;
        match declared {
            // An exchange of another kind would route messages elsewhere; durability and auto-delete are up to its
            // owner.
            Err(error)
                if reply_code(&error) == Some(code::PRECONDITION_FAILED) && !names_the_kind(&error) =>
            {
                warn!(
                    exchange = exchange.name,
                    reason = text(&error),
                    "the exchange exists with other arguments and is used as it is"
                );
                Ok(())
            }
            declared => declared,
        }
    }

    pub(super) async fn bind(&mut self, binding: &Binding) -> lapin::Result<()> {
        let (queue, exchange, key) =
            (short(&binding.queue)?, short(&binding.exchange)?, short(&binding.routing_key)?);
        self.run(async |c| {
            c.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    pub(super) async fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
        let (queue, exchange, key) = (short(queue)?, short(exchange)?, short(key)?);
        self.run(async |c| c.queue_unbind(queue, exchange, key, FieldTable::default()).await).await
    }

    /// Binds a queue to the exit of the ladders.
    pub(crate) async fn bind_to_exit(&mut self, queue: &str, key: &str) -> lapin::Result<()> {
        let binding = Binding { exchange: delay::EXIT.into(), queue: queue.into(), routing_key: key.into() };
        self.bind(&binding).await
    }

    /// Declares the ladders, from the exit upwards.
    pub(crate) async fn declare_ladders(&mut self) -> lapin::Result<()> {
        self.declare_exchange(&Exchange::new(delay::EXIT, ExchangeKind::Topic)).await?;
        for rung in delay::seconds_ladder().iter().chain(&delay::small_ladder()) {
            self.declare_rung(rung).await?;
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
        self.declare_or_accept(delay::SINK, arguments).await?;
        self.bind_to_exit(delay::SINK, &delay::sink_binding()).await
    }

    pub(super) async fn declare_rung(&mut self, rung: &Rung) -> lapin::Result<()> {
        self.declare_exchange(&Exchange::new(&*rung.name, ExchangeKind::Topic)).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), long("quorum"));
        arguments.insert("x-dead-letter-strategy".into(), long("at-least-once"));
        arguments.insert("x-overflow".into(), long("reject-publish"));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis(rung.stay)));
        arguments.insert("x-dead-letter-exchange".into(), long(&rung.below));
        self.declare_or_accept(&rung.name, arguments).await?;
        let (name, stops) = (rung.name.clone(), rung.stops.clone());
        self.bind(&Binding { exchange: name.clone(), queue: name, routing_key: stops }).await?;
        let (below, name, falls) = (short(&rung.below)?, short(&rung.name)?, short(&rung.falls)?);
        self.run(async |c| {
            c.exchange_bind(below, name, falls, ExchangeBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    /// Declares a queue, or keeps an existing one with other arguments: a fleet may have configured classic rungs.
    pub(super) async fn declare_or_accept(&mut self, name: &str, arguments: FieldTable) -> lapin::Result<()> {
        let name = short(name)?;
        let declared = self
            .run(async |c| c.queue_declare(name, QueueDeclareOptions::durable(), arguments).await.map(drop))
            .await;
        match declared {
            Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => Ok(()),
            declared => declared,
        }
    }
}

/// True when the broker refused an exchange because it is of another kind.
fn names_the_kind(error: &lapin::Error) -> bool {
    text(error).contains("'type'")
}

/// Converts a name. Names were checked earlier, but a mistake must be an error rather than a panic.
pub(crate) fn short(name: &str) -> lapin::Result<ShortString> {
    ShortString::try_new(name)
        .map_err(|error| ErrorKind::IOError(std::sync::Arc::new(std::io::Error::other(error))).into())
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The queue type to request; `None` leaves it to the broker.
fn queue_type(queue: &Queue, default: QueueKind) -> Option<&'static str> {
    // The broker refuses quorum queues that are not permanent, and RabbitMQ 3.10 also those with priorities.
    let must_be_classic =
        queue.exclusive || queue.auto_delete || !queue.durable || queue.max_priority.is_some();
    // Other clients that declare an exact queue set no type either.
    match queue.kind.unwrap_or(if queue.exact { QueueKind::Broker } else { default }) {
        QueueKind::Broker => None,
        QueueKind::Quorum if !must_be_classic => Some("quorum"),
        QueueKind::Quorum | QueueKind::Classic => Some("classic"),
    }
}

pub(super) fn arguments(queue: &Queue, default: QueueKind) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = queue_type(queue, default);
    let mut set = |name: &str, value: Option<AMQPValue>| {
        if let Some(value) = value {
            arguments.insert(name.into(), value);
        }
    };
    set("x-queue-type", kind.map(long));
    set("x-max-priority", queue.max_priority.map(|most| AMQPValue::LongInt(most.into())));
    let length = queue.max_length.map(|length| i64::try_from(length).unwrap_or(i64::MAX));
    set("x-max-length", length.map(AMQPValue::LongLongInt));
    set(
        "x-overflow",
        queue.overflow.map(|overflow| {
            long(match overflow {
                Overflow::DropHead => "drop-head",
                Overflow::RejectPublish => "reject-publish",
            })
        }),
    );
    set("x-message-ttl", queue.message_ttl.map(|ttl| AMQPValue::LongLongInt(millis(ttl))));
    // RabbitMQ does not allow zero here.
    set("x-expires", queue.expires.map(|expires| AMQPValue::LongLongInt(millis(expires).max(1))));
    set("x-dead-letter-exchange", queue.dead_letter_exchange.as_deref().map(long));
    set("x-dead-letter-routing-key", queue.dead_letter_routing_key.as_deref().map(long));
    let limit = if queue.dead_letter_exchange.is_some() { DELIVERY_LIMIT } else { NO_DELIVERY_LIMIT };
    let is_limited = kind == Some("quorum") && !queue.exact;
    set("x-delivery-limit", is_limited.then_some(AMQPValue::LongInt(limit)));
    arguments
}

/// Adds the arguments that were given explicitly.
pub(super) fn further(
    mut table: FieldTable,
    arguments: &BTreeMap<String, Value>,
) -> lapin::Result<FieldTable> {
    for (name, value) in arguments {
        // The names were checked earlier, as queue names are.
        let value = to_value(value, 0).map_err(|error| std::io::Error::other(error.to_string()))?;
        table.insert(short(name)?, value);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_what_the_queue_needs() {
        let plain = Queue::new("q");
        let priorities = Queue { max_priority: Some(9), ..plain.clone() };
        let exclusive = Queue { exclusive: true, ..plain.clone() };
        let classic = Queue { kind: Some(QueueKind::Classic), ..plain.clone() };
        let (quorum, broker) = (QueueKind::Quorum, QueueKind::Broker);
        assert_eq!(queue_type(&plain, quorum), Some("quorum"));
        assert_eq!(queue_type(&priorities, quorum), Some("classic"));
        assert_eq!(queue_type(&exclusive, quorum), Some("classic"));
        assert_eq!(queue_type(&classic, quorum), Some("classic"));
        assert_eq!(queue_type(&plain, broker), None);
    }

    #[test]
    fn an_exact_queue_has_the_arguments_that_are_written_and_no_others() {
        let none = arguments(&Queue::exact("q"), QueueKind::Quorum);
        assert_eq!(none, FieldTable::default());
        let queue = Queue { kind: Some(QueueKind::Quorum), ..Queue::exact("q").argument("x-max-length", 10) };
        let table = further(arguments(&queue, QueueKind::Classic), &queue.arguments).expect("short names");
        let mut names: Vec<&str> = table.inner().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-max-length", "x-queue-type"]);
    }

    #[test]
    fn there_is_no_delivery_limit_without_a_dead_letter_exchange() {
        let plain = Queue::new("q");
        let dead = Queue { dead_letter_exchange: Some(String::new()), ..plain.clone() };
        let limit = |queue, kind| arguments(queue, kind).inner().get("x-delivery-limit").cloned();
        assert_eq!(limit(&dead, QueueKind::Quorum), Some(AMQPValue::LongInt(20)));
        assert_eq!(limit(&plain, QueueKind::Quorum), Some(AMQPValue::LongInt(i32::MAX)));
        assert_eq!(limit(&dead, QueueKind::Classic), None);
    }
}
