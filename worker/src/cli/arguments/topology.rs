//! The arguments of the commands for exchanges, queues and bindings.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::app::config::value;
use crate::routing::names::check_key;
use crate::routing::{ExchangeKind, Overflow, QueueKind};

#[derive(Args, Debug)]
pub(in crate::cli) struct ExchangesArguments {
    /// Only these exchanges
    #[arg(value_parser = value::exchange)]
    pub(in crate::cli) names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct BindingsArguments {
    /// Only bindings of this exchange
    #[arg(long, value_name = "NAME", value_parser = value::exchange)]
    pub(in crate::cli) exchange: Option<String>,
    /// Only bindings of this queue
    #[arg(long, value_name = "NAME", value_parser = value::queue)]
    pub(in crate::cli) queue: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeclareCommand {
    /// Declare a queue and its dead-letter queue, as a worker would
    Queue(DeclareQueueArguments),
    /// Declare an exchange
    Exchange(DeclareExchangeArguments),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeclareQueueArguments {
    /// The queue
    #[arg(value_parser = value::queue)]
    pub(in crate::cli) name: String,
    /// Do not create a dead-letter queue
    #[arg(long)]
    pub(in crate::cli) plain: bool,
    /// The kind of queue on RabbitMQ [default: the setting `queue_kind`]
    #[arg(long)]
    pub(in crate::cli) kind: Option<Kind>,
    /// Do not keep the queue across a restart of the broker
    #[arg(long)]
    pub(in crate::cli) transient: bool,
    /// Delete the queue when its last consumer goes away
    #[arg(long)]
    pub(in crate::cli) auto_delete: bool,
    /// The highest priority
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u8).range(1..))]
    pub(in crate::cli) max_priority: Option<u8>,
    /// The maximum number of waiting messages
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(in crate::cli) max_length: Option<u64>,
    /// What to do when the queue is full [default: drop-head]
    #[arg(long, requires = "max_length")]
    pub(in crate::cli) overflow: Option<OverflowArgument>,
    /// How long a message may wait before it expires
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(in crate::cli) message_ttl: Option<Duration>,
    /// Delete the queue after this long without consumers
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(in crate::cli) expires: Option<Duration>,
    /// The exchange for dead-lettered messages
    #[arg(long, value_name = "NAME", value_parser = value::exchange, conflicts_with = "plain")]
    pub(in crate::cli) dead_letter_exchange: Option<String>,
    /// The routing key for dead-lettered messages [default: their own]
    #[arg(long, value_name = "KEY", value_parser = key, requires = "dead_letter_exchange")]
    pub(in crate::cli) dead_letter_routing_key: Option<String>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeclareExchangeArguments {
    /// The exchange
    #[arg(value_parser = value::exchange)]
    pub(in crate::cli) name: String,
    /// How the exchange routes messages to its bindings
    #[arg(long, default_value = "direct")]
    pub(in crate::cli) kind: ExchangeKindArgument,
    /// Do not keep the exchange across a restart of the broker
    #[arg(long)]
    pub(in crate::cli) transient: bool,
    /// Delete the exchange when its last binding goes away
    #[arg(long)]
    pub(in crate::cli) auto_delete: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct BindArguments {
    /// The exchange to take messages from
    #[arg(value_parser = value::exchange)]
    pub(in crate::cli) exchange: String,
    /// The queue to put them in
    #[arg(value_parser = value::queue)]
    pub(in crate::cli) queue: String,
    /// The routing key, or a pattern for a topic exchange: `*` is one word, `#` is zero or more words
    #[arg(value_parser = key, default_value = "")]
    pub(in crate::cli) key: String,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum DeleteCommand {
    /// Delete a queue and its messages, if it has no consumers
    Queue(DeleteQueueArguments),
    /// Delete an exchange, if it has no bindings
    Exchange(DeleteExchangeArguments),
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeleteQueueArguments {
    /// The queue
    #[arg(value_name = "QUEUE", value_parser = value::queue)]
    pub(in crate::cli) name: String,
    /// Only if the queue is empty
    #[arg(long)]
    pub(in crate::cli) if_empty: bool,
    /// Only if the queue has no consumers: the default without --force
    #[arg(long, conflicts_with = "force")]
    pub(in crate::cli) if_unused: bool,
    /// Even if workers consume from it
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct DeleteExchangeArguments {
    /// The exchange
    #[arg(value_parser = value::exchange)]
    pub(in crate::cli) name: String,
    /// Only if the exchange has no bindings: the default without --force
    #[arg(long, conflicts_with = "force")]
    pub(in crate::cli) if_unused: bool,
    /// Even if it has bindings, and delete them too
    #[arg(long)]
    pub(in crate::cli) force: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(in crate::cli) yes: bool,
}

/// [`QueueKind`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum Kind {
    /// Replicated and safest
    Quorum,
    /// Not replicated; has priorities on every version of RabbitMQ
    Classic,
    /// The default of the broker
    Broker,
}

impl From<Kind> for QueueKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Quorum => QueueKind::Quorum,
            Kind::Classic => QueueKind::Classic,
            Kind::Broker => QueueKind::Broker,
        }
    }
}

/// [`Overflow`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum OverflowArgument {
    /// Drop or dead-letter the oldest message
    DropHead,
    /// Refuse the new message: its publisher receives an error
    RejectPublish,
}

impl From<OverflowArgument> for Overflow {
    fn from(overflow: OverflowArgument) -> Self {
        match overflow {
            OverflowArgument::DropHead => Overflow::DropHead,
            OverflowArgument::RejectPublish => Overflow::RejectPublish,
        }
    }
}

/// [`ExchangeKind`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::cli) enum ExchangeKindArgument {
    /// To bindings with the same routing key
    Direct,
    /// To every binding
    Fanout,
    /// To bindings whose pattern matches the routing key
    Topic,
    /// To bindings whose headers match (RabbitMQ only)
    Headers,
}

impl From<ExchangeKindArgument> for ExchangeKind {
    fn from(kind: ExchangeKindArgument) -> Self {
        match kind {
            ExchangeKindArgument::Direct => ExchangeKind::Direct,
            ExchangeKindArgument::Fanout => ExchangeKind::Fanout,
            ExchangeKindArgument::Topic => ExchangeKind::Topic,
            ExchangeKindArgument::Headers => ExchangeKind::Headers,
        }
    }
}

fn key(text: &str) -> Result<String, String> {
    check_key(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
