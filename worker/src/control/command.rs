//! A command to workers, in its form on the wire.

use regex_lite::Regex;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::glob;
use crate::error::{Error, Result, Undecodable};
use crate::message::{JSON, Message, Properties};

/// A command to some workers or to all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Command {
    /// What to do: `ping`, `stats`, `shutdown`, ….
    pub method: String,
    /// Its arguments, by name.
    #[serde(default, deserialize_with = "or_default")]
    pub arguments: Map<String, Value>,
    /// The nodes that it is for; `None` means all.
    #[serde(default, deserialize_with = "names")]
    pub destination: Option<Vec<String>>,
    /// A pattern for the names of the nodes, in place of a destination.
    #[serde(default)]
    pub pattern: Option<String>,
    /// How to read the pattern: `glob`, or `pcre` for a regular expression.
    #[serde(default)]
    pub matcher: Option<String>,
    /// Identifies the replies to this command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// Where replies go; `None` if none are wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<ReplyTo>,
}

/// The address for replies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

/// Whether a command is for a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressed {
    /// The command is for this node.
    Yes,
    /// The command is for other nodes.
    No,
    /// The command selects its nodes in this way, which this crate does not support: it must not be acted on.
    Unclear(String),
}

impl Command {
    /// A command without arguments for all nodes.
    pub fn new(method: impl Into<String>) -> Self {
        Self { method: method.into(), ..Self::default() }
    }

    /// Whether it is for `node`, by the rule of kombu's `pidbox`.
    pub fn is_for(&self, node: &str) -> Addressed {
        let yes_if = |yes| if yes { Addressed::Yes } else { Addressed::No };
        match (self.destination.as_deref(), &self.pattern, &self.matcher) {
            (Some(names @ [_, ..]), ..) => yes_if(names.iter().any(|name| name == node)),
            (_, Some(pattern), Some(matcher)) if !pattern.is_empty() && !matcher.is_empty() => {
                match matcher.as_str() {
                    "glob" => yes_if(glob::matches(pattern, node)),
                    // As Python's `re.match`: from the beginning, and not necessarily to the end.
                    "pcre" => match Regex::new(&format!("^(?:{pattern})")) {
                        Ok(pattern) => yes_if(pattern.is_match(node)),
                        Err(error) => Addressed::Unclear(format!("pcre `{pattern}`: {error}")),
                    },
                    other => Addressed::Unclear(format!("matcher `{other}`")),
                }
            }
            _ => Addressed::Yes,
        }
    }

    /// The command as a message, with the sender's clock.
    ///
    /// # Errors
    /// Never in practice: a command always has a JSON form.
    pub fn into_message(self, clock: u64) -> Result<Message> {
        message(&self, clock)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// A body that is not a command: another serializer, or not from a control client at all.
    pub fn from_message(message: &Message) -> Result<Self> {
        let kind = message.properties.content_type.as_deref();
        if kind.is_some_and(|kind| !kind.starts_with(JSON)) {
            let kind = kind.unwrap_or_default();
            return Err(Error::codec(format!("content type `{kind}` is not accepted, only `{JSON}`")));
        }
        serde_json::from_slice(&message.body).map_err(|error| {
            Error::codec("the body is not a control command").with_source(Undecodable::from(&error))
        })
    }
}

/// A control message. It is transient, since it is of no use after a restart of the broker.
pub(super) fn message(body: &impl Serialize, clock: u64) -> Result<Message> {
    let body = serde_json::to_vec(body)
        .map_err(|error| Error::codec("a control message has no JSON form").with_source(error))?;
    let mut message = Message {
        properties: Properties {
            content_type: Some(JSON.into()),
            content_encoding: Some("utf-8".into()),
            transient: true,
            ..Properties::default()
        },
        body: body.into(),
        ..Message::default()
    };
    message.headers.set("clock", clock);
    Ok(message)
}

fn or_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of names, or a single one.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Names {
        Many(Vec<String>),
        One(String),
    }
    Ok(Option::<Names>::deserialize(deserializer)?.map(|names| match names {
        Names::Many(names) => names,
        Names::One(name) => vec![name],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<Command> {
        Command::from_message(&Message { body: body.to_string().into(), ..Message::default() })
    }

    #[test]
    fn celery_s_request_is_read() {
        let command = read(json!({
            "method": "query_task", "arguments": {"ids": ["a"]}, "destination": ["worker1@example"],
            "pattern": null, "matcher": null, "ticket": "8575ac56",
            "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "71fda74d"},
        }))
        .expect("a command");
        assert_eq!(command.method, "query_task");
        assert_eq!(command.arguments["ids"], json!(["a"]));
        assert_eq!(command.reply_to.as_ref().expect("an address").routing_key, "71fda74d");
        assert_eq!(command.is_for("worker1@example"), Addressed::Yes);
        assert_eq!(command.is_for("worker2@example"), Addressed::No);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let command = Command {
            destination: Some(vec!["a@b".into()]),
            ticket: Some("t".into()),
            reply_to: Some(ReplyTo { exchange: "x".into(), routing_key: "k".into() }),
            ..Command::new("ping")
        };
        let message = command.clone().into_message(3).expect("a message");
        assert_eq!(message.headers.get("clock"), Some(&json!(3)));
        assert!(message.properties.transient);
        assert_eq!(Command::from_message(&message).expect("a command"), command);
        let silent = Command::new("shutdown").into_message(1).expect("a message");
        let body: Value = serde_json::from_slice(&silent.body).expect("JSON");
        assert!(body.get("ticket").is_none() && body.get("reply_to").is_none(), "{body}");
        assert_eq!(body["destination"], Value::Null);
    }

    #[test]
    fn nodes_are_named_by_list_by_pattern_or_not_at_all() {
        let with = |destination: Value, pattern: Value, matcher: Value| {
            read(
                json!({"method": "ping", "destination": destination, "pattern": pattern, "matcher": matcher}),
            )
            .expect("a command")
            .is_for("mail@h")
        };
        let null = Value::Null;
        assert_eq!(with(null.clone(), null.clone(), null.clone()), Addressed::Yes);
        assert_eq!(with(json!([]), null.clone(), null.clone()), Addressed::Yes);
        assert_eq!(with(json!("mail@h"), null.clone(), null.clone()), Addressed::Yes);
        assert_eq!(with(json!(["other@h"]), json!("*"), json!("glob")), Addressed::No);
        assert_eq!(with(null.clone(), json!("mail@*"), json!("glob")), Addressed::Yes);
        assert_eq!(with(null.clone(), json!("sms@*"), json!("glob")), Addressed::No);
        assert_eq!(with(null.clone(), json!("sms@*"), null.clone()), Addressed::Yes);
        assert_eq!(with(null.clone(), json!("m[aeiou]il"), json!("pcre")), Addressed::Yes);
        assert_eq!(with(null.clone(), json!("ail"), json!("pcre")), Addressed::No);
        for (pattern, matcher) in [("(", "pcre"), ("*", "sql")] {
            let unclear = with(null.clone(), json!(pattern), json!(matcher));
            assert!(matches!(&unclear, Addressed::Unclear(why) if why.contains(matcher)), "{unclear:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_an_error() {
        for body in [json!([]), json!({"arguments": {}}), json!({"method": 1}), json!("ping")] {
            assert!(read(body.clone()).expect_err("no command").is_codec(), "{body}");
        }
        let mut pickled = Command::new("ping").into_message(1).expect("a message");
        pickled.properties.content_type = Some("application/x-python-serialize".into());
        assert!(Command::from_message(&pickled).expect_err("refused").is_codec());
    }
}
