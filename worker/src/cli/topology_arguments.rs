//! What may be written after the commands that look at exchanges, queues and bindings, and change them.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::app::config::value;
use crate::routing::topology::check_key;
use crate::routing::{ExchangeKind, Overflow, QueueKind};

#[derive(Args, Debug)]
pub(super) struct ExchangesArguments {
    /// Only these exchanges
    #[arg(value_parser = value::exchange)]
    pub(super) names: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Args, Debug)]
pub(super) struct BindingsArguments {
    /// Only those of this exchange
    #[arg(long, value_name = "NAME", value_parser = value::exchange)]
    pub(super) exchange: Option<String>,
    /// Only those of this queue
    #[arg(long, value_name = "NAME", value_parser = value::queue)]
    pub(super) queue: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeclareCommand {
    /// Make a queue, as the worker would: with a dead-letter queue beside it
    Queue(DeclareQueueArguments),
    /// Make an exchange
    Exchange(DeclareExchangeArguments),
}

#[derive(Args, Debug)]
pub(super) struct DeclareQueueArguments {
    /// The queue
    #[arg(value_parser = value::queue)]
    pub(super) name: String,
    /// Just this queue, with nothing for what it drops
    #[arg(long)]
    pub(super) plain: bool,
    /// How RabbitMQ keeps it [default: `queue_kind`]
    #[arg(long)]
    pub(super) kind: Option<Kind>,
    /// It does not survive a restart of the broker
    #[arg(long)]
    pub(super) transient: bool,
    /// It goes with its last consumer
    #[arg(long)]
    pub(super) auto_delete: bool,
    /// The most urgent priority
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u8).range(1..))]
    pub(super) max_priority: Option<u8>,
    /// The most messages that may wait
    #[arg(long, value_name = "N", allow_hyphen_values = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_length: Option<u64>,
    /// What happens to the message too many [default: the oldest is dropped]
    #[arg(long, requires = "max_length")]
    pub(super) overflow: Option<WhenFull>,
    /// How long a message may wait
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) message_ttl: Option<Duration>,
    /// How long it lives without consumers
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = value::positive_duration)]
    pub(super) expires: Option<Duration>,
    /// The exchange for messages that it drops
    #[arg(long, value_name = "NAME", value_parser = value::exchange, conflicts_with = "plain")]
    pub(super) dead_letter_exchange: Option<String>,
    /// The routing key for those [default: their own]
    #[arg(long, value_name = "KEY", value_parser = key, requires = "dead_letter_exchange")]
    pub(super) dead_letter_routing_key: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct DeclareExchangeArguments {
    /// The exchange
    #[arg(value_parser = value::exchange)]
    pub(super) name: String,
    /// How it chooses among its bindings
    #[arg(long, default_value = "direct")]
    pub(super) kind: HowToChoose,
    /// It does not survive a restart of the broker
    #[arg(long)]
    pub(super) transient: bool,
    /// It goes with its last binding
    #[arg(long)]
    pub(super) auto_delete: bool,
}

#[derive(Args, Debug)]
pub(super) struct BindArguments {
    /// The exchange that messages come from
    #[arg(value_parser = value::exchange)]
    pub(super) exchange: String,
    /// The queue that they go to
    #[arg(value_parser = value::queue)]
    pub(super) queue: String,
    /// The routing key, or for a topic exchange a pattern: `*` is one word, `#` is zero or more
    #[arg(value_parser = key, default_value = "")]
    pub(super) key: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum DeleteCommand {
    /// Delete a queue with its messages, if nobody works on it
    Queue(DeleteQueueArguments),
    /// Delete an exchange, if nothing is bound to it
    Exchange(DeleteExchangeArguments),
}

#[derive(Args, Debug)]
pub(super) struct DeleteQueueArguments {
    /// The queue
    #[arg(value_parser = value::queue)]
    pub(super) name: String,
    /// Only if no message is in it
    #[arg(long)]
    pub(super) if_empty: bool,
    /// Only if nobody consumes from it: what holds without --force
    #[arg(long, conflicts_with = "force")]
    pub(super) if_unused: bool,
    /// Even while workers consume from it
    #[arg(long)]
    pub(super) force: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

#[derive(Args, Debug)]
pub(super) struct DeleteExchangeArguments {
    /// The exchange
    #[arg(value_parser = value::exchange)]
    pub(super) name: String,
    /// Only if nothing is bound to it: what holds without --force
    #[arg(long, conflicts_with = "force")]
    pub(super) if_unused: bool,
    /// With its bindings
    #[arg(long)]
    pub(super) force: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

/// [`QueueKind`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Kind {
    /// Replicated and safest.
    Quorum,
    /// The older kind: knows priorities on every version.
    Classic,
    /// What the broker's policy says.
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
pub(super) enum WhenFull {
    /// The oldest message is dropped, or dead-lettered.
    DropHead,
    /// The publisher gets an error.
    RejectPublish,
}

impl From<WhenFull> for Overflow {
    fn from(overflow: WhenFull) -> Self {
        match overflow {
            WhenFull::DropHead => Overflow::DropHead,
            WhenFull::RejectPublish => Overflow::RejectPublish,
        }
    }
}

/// [`ExchangeKind`] as a word.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum HowToChoose {
    /// The routing key equals the binding's.
    Direct,
    /// Every binding.
    Fanout,
    /// The routing key matches the binding's pattern.
    Topic,
    /// The headers match (RabbitMQ only).
    Headers,
}

impl From<HowToChoose> for ExchangeKind {
    fn from(kind: HowToChoose) -> Self {
        match kind {
            HowToChoose::Direct => ExchangeKind::Direct,
            HowToChoose::Fanout => ExchangeKind::Fanout,
            HowToChoose::Topic => ExchangeKind::Topic,
            HowToChoose::Headers => ExchangeKind::Headers,
        }
    }
}

fn key(text: &str) -> Result<String, String> {
    check_key(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}
