//! An outgoing message, converted to AMQP once.

use std::sync::Mutex;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::BasicReturnMessage;
use lapin::types::{AMQPValue, ShortString};
use serde_json::Value;

use super::codec::{header_frame, short, to_amqp};
use super::delay;
use super::lock::lock;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// A message with its address.
pub(crate) struct Outgoing {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    message: Message,
    /// The message's properties, for the first publish; for another, which is rare, they are converted again.
    properties: Mutex<Option<BasicProperties>>,
    pub(super) mandatory: bool,
    /// The size of the header frame, with all headers that the broker will add on the way.
    header_frame: usize,
}

impl Outgoing {
    /// # Errors
    /// A text that is too long for AMQP.
    pub(crate) fn new(exchange: &str, routing_key: &str, message: Message, mandatory: bool) -> Result<Self> {
        let properties = to_amqp(&message)?;
        Ok(Self {
            exchange: short("the name of an exchange", exchange)?,
            routing_key: short("a routing key", routing_key)?,
            header_frame: header_frame(&properties),
            message,
            properties: Mutex::new(Some(properties)),
            mandatory,
        })
    }

    pub(super) fn body(&self) -> &Bytes {
        &self.message.body
    }

    /// The exchange; empty for the default exchange.
    pub(crate) fn exchange(&self) -> &str {
        self.exchange.as_str()
    }

    pub(crate) fn routing_key(&self) -> &str {
        self.routing_key.as_str()
    }

    /// The task id, under which the caller may send it again.
    pub(super) fn id(&self) -> Option<&str> {
        self.message.id()
    }

    /// Properties and headers, to be published.
    pub(super) fn properties(&self) -> BasicProperties {
        let first = lock(&self.properties).take();
        first.unwrap_or_else(|| to_amqp(&self.message).expect("it could be written before"))
    }

    /// Leaves room for headers of this size, which the broker will add before delivery.
    pub(crate) fn with_room(mut self, traces: usize) -> Self {
        self.header_frame += traces;
        self
    }

    /// Checks that the headers fit into a frame of this size. It must be called before anything is written: the broker
    /// closes the connection over a larger frame, and all other publishers would lose their confirms.
    pub(super) fn check(&self, frame_max: usize) -> Result<()> {
        if self.header_frame <= frame_max {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::HeadersTooLarge,
            format!(
                "nothing was sent to {}: the headers are {} bytes, and the broker takes {frame_max} (`frame_max`); put large \
                 values into the arguments",
                self.address(),
                self.header_frame
            ),
        ))
    }

    /// Describes the address for errors: `exchange … with routing key …`, or `queue …`.
    pub(super) fn address(&self) -> String {
        match (self.exchange.as_str(), self.routing_key.as_str()) {
            ("", queue) => format!("queue `{queue}`"),
            (exchange, "") => format!("exchange `{exchange}`"),
            (exchange, key) => format!("exchange `{exchange}` with routing key `{key}`"),
        }
    }

    /// True when it goes to one queue at most.
    pub(super) fn is_for_one_queue(&self) -> bool {
        // A rung of a ladder is one queue.
        matches!(self.exchange.as_str(), "" | "amq.default") || delay::is_rung(self.exchange.as_str())
    }

    /// True when this may be the returned message. Messages that are equal in all of this are returned in the order in
    /// which they were published.
    pub(super) fn is_returned_as(&self, returned: &Returned) -> bool {
        self.mandatory
            && self.routing_key.as_str() == returned.routing_key
            && self.exchange.as_str() == returned.exchange
            && self.identity() == returned.id.as_deref()
            && *self.body() == returned.body
    }

    /// The header `id` of a task, or else the message id of a plain message.
    fn identity(&self) -> Option<&str> {
        let header = self.message.headers.get("id").and_then(Value::as_str);
        header.or(self.message.properties.message_id.as_deref())
    }
}

/// A message that the broker returned because no queue took it.
pub(super) struct Returned {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) id: Option<String>,
    pub(super) body: Vec<u8>,
    pub(super) reason: String,
}

impl From<BasicReturnMessage> for Returned {
    fn from(message: BasicReturnMessage) -> Self {
        let reason = message.reply_text.to_string();
        let delivery = message.delivery;
        Self {
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            id: identity(&delivery.properties),
            body: delivery.data,
            reason,
        }
    }
}

/// [`Outgoing::identity`] of a returned message.
fn identity(properties: &BasicProperties) -> Option<String> {
    let header = properties.headers().as_ref().and_then(|table| match table.inner().get("id") {
        Some(AMQPValue::LongString(id)) => Some(id.to_string()),
        _ => None,
    });
    header.or_else(|| properties.message_id().as_ref().map(ToString::to_string))
}
