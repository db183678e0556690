//! A message as the brokers carry it: Celery's protocol v2 as data.
//!
//! Brokers move [`Message`]s without looking inside; [`codec`] reads and writes the body, [`Headers`] has the
//! metadata of the task. The protocol is that of Celery 5.7 and kombu 5.7.

pub mod arguments;
pub mod codec;
pub mod headers;
pub mod history;
mod iso8601;
pub(crate) mod json;
pub mod kombu;
mod name_lengths;
mod normalize;
pub mod progress;
pub(crate) mod typed;

pub use arguments::{Argument, ArgumentError, Arguments};
pub use codec::{Body, Embed, NoArgs};
pub use headers::Headers;
pub use history::Attempt;
pub use kombu::ResultTypes;
pub use normalize::normalize;
pub use progress::Progress;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The content type of every task message that this crate writes.
pub const JSON: &str = "application/json";
/// Its encoding.
pub const UTF_8: &str = "utf-8";

/// One message, as a producer publishes it and a consumer receives it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Message {
    /// AMQP's basic properties.
    pub properties: Properties,
    /// The header table. Empty for a plain message.
    pub headers: Headers,
    /// The payload, as stored in the queue.
    pub body: Bytes,
}

/// AMQP's basic properties, as far as task queues use them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// `application/json` for tasks.
    pub content_type: Option<Cow<'static, str>>,
    /// `utf-8` for JSON.
    pub content_encoding: Option<Cow<'static, str>>,
    /// The task id, if a reply is expected.
    pub correlation_id: Option<String>,
    /// The queue on which the sender waits for the reply.
    pub reply_to: Option<String>,
    /// An id given by the sender of a plain message.
    pub message_id: Option<String>,
    /// Larger is more urgent; queues support 0 to their `max_priority`.
    pub priority: Option<u8>,
    /// The broker drops (or dead-letters) the message when it has waited this long.
    pub expiration: Option<std::time::Duration>,
    /// False asks the broker to keep the message on disk, which is the default.
    pub transient: bool,
    /// Free text of the sender, passed on.
    pub kind: Option<String>,
    /// Free text of the sender, passed on.
    pub app_id: Option<String>,
    /// Seconds since 1970, passed on.
    pub timestamp: Option<u64>,
}

impl Message {
    /// True when the message names a task in its headers (protocol v2).
    pub fn is_task(&self) -> bool {
        self.headers.task().is_some()
    }

    /// The task id, or a plain message's message id or correlation id.
    pub fn id(&self) -> Option<&str> {
        self.headers
            .id()
            .or(self.properties.message_id.as_deref())
            .or(self.properties.correlation_id.as_deref())
    }
}
