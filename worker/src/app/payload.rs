//! The payload of a plain message: text, bytes or JSON.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result, Undecodable};
use crate::message::{JSON, Message, Properties, json, typed};

/// The body of a plain message, with its content type.
///
/// ```
/// use mq_worker::Payload;
///
/// assert_eq!(Payload::from("hello").content_type(), "text/plain");
/// let numbers = Payload::json(&[1, 2, 3])?;
/// assert_eq!(numbers.text()?, "[1,2,3]");
/// assert_eq!(numbers.decode::<Vec<u8>>()?, [1, 2, 3]);
/// # Ok::<_, mq_worker::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    content_type: Cow<'static, str>,
    body: Bytes,
}

impl Payload {
    /// A JSON document.
    ///
    /// # Errors
    /// A value that JSON cannot represent, such as NaN.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let body = json::to_vec(value)
            .map_err(|error| Error::codec("cannot write the payload as JSON").with_source(error))?;
        Ok(Self { content_type: JSON.into(), body: body.into() })
    }

    /// The content type set by the sender; empty if it set none.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The bytes as text.
    ///
    /// # Errors
    /// Bytes that are not UTF-8.
    pub fn text(&self) -> Result<&str> {
        std::str::from_utf8(&self.body)
            .map_err(|error| Error::codec("the payload is not text").with_source(error))
    }

    /// Decodes the bytes as a JSON document.
    ///
    /// # Errors
    /// Bytes that are not JSON, or a document of another shape.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        typed::from_slice(&self.body).map_err(|error| {
            Error::codec("the payload is not of the expected type").with_source(Undecodable::from(&error))
        })
    }

    /// A message with this body and properties.
    pub(super) fn into_message(self, properties: Properties) -> Message {
        let Self { content_type, body } = self;
        let content_type = Some(content_type).filter(|kind| !kind.is_empty());
        Message { properties: Properties { content_type, ..properties }, body, ..Message::default() }
    }
}

impl From<Message> for Payload {
    fn from(message: Message) -> Self {
        let content_type = message.properties.content_type.unwrap_or_default();
        Self { content_type, body: message.body }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        String::from(text).into()
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self { content_type: "text/plain".into(), body: text.into() }
    }
}

impl From<Bytes> for Payload {
    fn from(body: Bytes) -> Self {
        Self { content_type: "application/octet-stream".into(), body }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(body: Vec<u8>) -> Self {
        Bytes::from(body).into()
    }
}
