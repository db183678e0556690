//! `mq-worker declare queue|exchange NAME`: declares a queue or an exchange.

use super::arguments::{CommonArguments, DeclareCommand, DeclareExchangeArguments, DeclareQueueArguments};
use super::exit::Outcome;
use super::{operate, output};
use crate::app::App;
use crate::error::Error;
use crate::routing::{Exchange, Queue, Topology};

pub(super) fn run(command: DeclareCommand, common: &CommonArguments) -> Outcome {
    operate::run(common, |app| async move {
        match command {
            DeclareCommand::Queue(arguments) => queue(&app, arguments).await,
            DeclareCommand::Exchange(arguments) => exchange(&app, arguments).await,
        }
    })
}

async fn queue(app: &App, arguments: DeclareQueueArguments) -> Outcome {
    let name = arguments.name.clone();
    if app.is_external(&name) {
        return Err(Error::config(format!(
            "cannot declare queue `{name}`: it is external in the configuration"
        ))
        .into());
    }
    let topology = wanted(app, arguments);
    app.broker().await?.declare(&topology).await?;
    output::data(format!("queue `{name}` declared"))
}

/// Returns the queue as set by the flags, the configuration and the tasks, in this order of precedence.
fn wanted(app: &App, arguments: DeclareQueueArguments) -> Topology {
    let mut topology = app.task_queue(&arguments.name);
    let dead = Queue::dead_letter_name(&arguments.name);
    if arguments.plain || arguments.dead_letter_exchange.is_some() {
        topology.queues.retain(|queue| queue.name != dead);
    }
    let own = topology.queues.iter_mut().filter(|queue| queue.name == arguments.name);
    for queue in own {
        if arguments.plain {
            queue.dead_letter_exchange = None;
            queue.dead_letter_routing_key = None;
        }
        if arguments.dead_letter_exchange.is_some() {
            queue.dead_letter_exchange.clone_from(&arguments.dead_letter_exchange);
            queue.dead_letter_routing_key.clone_from(&arguments.dead_letter_routing_key);
        }
        queue.durable &= !arguments.transient;
        queue.auto_delete |= arguments.auto_delete;
        queue.kind = arguments.kind.map(Into::into).or(queue.kind);
        queue.max_priority = arguments.max_priority.or(queue.max_priority);
        queue.max_length = arguments.max_length.or(queue.max_length);
        queue.overflow = arguments.overflow.map(Into::into).or(queue.overflow);
        queue.message_ttl = arguments.message_ttl.or(queue.message_ttl);
        queue.expires = arguments.expires.or(queue.expires);
    }
    topology
}

async fn exchange(app: &App, arguments: DeclareExchangeArguments) -> Outcome {
    let DeclareExchangeArguments { name, kind, transient, auto_delete } = arguments;
    let exchange = Exchange { durable: !transient, auto_delete, ..Exchange::new(&name, kind.into()) };
    let topology = Topology { exchanges: vec![exchange], ..Topology::default() };
    app.broker().await?.declare(&topology).await?;
    output::data(format!("exchange `{name}` declared"))
}
