//! An exchange as data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::written::{is_false, yes};

/// How an exchange routes messages to its bindings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExchangeKind {
    /// To the bindings whose key equals the routing key.
    #[default]
    Direct,
    /// To every binding.
    Fanout,
    /// To the bindings whose pattern matches the routing key: `*` is one word, `#` is zero or more.
    Topic,
    /// To the bindings whose arguments match the message's headers. RabbitMQ only.
    Headers,
}

impl ExchangeKind {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Fanout => "fanout",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Headers => "headers",
        }
    }
}

/// An exchange. The one with the empty name always exists: it routes to the queue named by the routing key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The name.
    pub name: String,
    /// How it routes messages to its bindings.
    #[serde(default)]
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    #[serde(default = "yes")]
    pub durable: bool,
    /// Deleted together with its last binding.
    #[serde(default)]
    pub auto_delete: bool,
    /// Declared by other programs only: bindings to it are made as soon as it exists.
    #[serde(default, skip_serializing_if = "is_false")]
    pub external: bool,
    /// Further arguments of the declaration, such as `alternate-exchange`. RabbitMQ only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub arguments: BTreeMap<String, Value>,
}

impl Exchange {
    /// A durable exchange.
    pub fn new(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            external: false,
            arguments: BTreeMap::new(),
        }
    }

    /// An exchange that only other programs declare. Bindings to it are made as soon as it exists, and again after it was
    /// deleted and declared again. Its kind determines how delayed messages are routed.
    pub fn external(name: impl Into<String>, kind: ExchangeKind) -> Self {
        Self { external: true, ..Self::new(name, kind) }
    }

    /// An exchange that does not survive a restart of the broker: the default of pika's and most other clients'
    /// `exchange_declare`.
    #[must_use]
    pub fn transient(mut self) -> Self {
        self.durable = false;
        self
    }
}
