//! The reply of a worker, in its form on the wire.

use serde_json::{Map, Value};

use super::command::message;
use crate::error::{Error, Result, Undecodable};
use crate::message::Message;

/// The reply of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The name of the node.
    pub node: String,
    /// Its content. An error is an object with the one key `error`.
    pub value: Value,
}

impl Reply {
    /// The error, if the node replied with one.
    pub fn error(&self) -> Option<&str> {
        self.value.get("error")?.as_str()
    }

    /// The reply as a message, with the ticket of the command and the sender's clock.
    ///
    /// # Errors
    /// Never in practice: a reply always has a JSON form.
    pub fn into_message(self, ticket: Option<&str>, clock: u64) -> Result<Message> {
        let mut body = Map::new();
        body.insert(self.node, self.value);
        let mut message = message(&body, clock)?;
        message.headers.set("ticket", ticket);
        Ok(message)
    }

    /// Reads a message: an object with one node, in theory more.
    ///
    /// # Errors
    /// A body that is not an object.
    pub fn from_message(message: &Message) -> Result<Vec<Self>> {
        let nodes: Map<String, Value> = serde_json::from_slice(&message.body).map_err(|error| {
            Error::codec("the body is not a reply to a control command")
                .with_source(Undecodable::from(&error))
        })?;
        Ok(nodes.into_iter().map(|(node, value)| Self { node, value }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_reply_has_the_form_that_celery_reads() {
        let reply = Reply { node: "worker1@example".into(), value: json!({"ok": "pong"}) };
        let message = reply.clone().into_message(Some("the-ticket"), 12).expect("a message");
        assert_eq!(message.headers.get_str("ticket"), Some("the-ticket"));
        let body: Value = serde_json::from_slice(&message.body).expect("JSON");
        assert_eq!(body, json!({"worker1@example": {"ok": "pong"}}));
        assert_eq!(Reply::from_message(&message).expect("a reply"), [reply]);
    }

    #[test]
    fn an_error_is_told_from_an_answer() {
        let reply = |value| Reply { node: "n".into(), value };
        assert_eq!(reply(json!({"error": "KeyError('x')"})).error(), Some("KeyError('x')"));
        assert_eq!(reply(json!({"ok": "pong"})).error(), None);
        assert_eq!(reply(json!([])).error(), None);
    }
}
