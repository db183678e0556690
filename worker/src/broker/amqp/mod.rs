//! RabbitMQ as a broker.
//!
//! Connections, the publishing task and declarations live in [`connection::amqp`](crate::connection::amqp), which is
//! shared with the result backend. This module has the consumers ([`lane`]: one channel for each queue, so that one
//! queue's failures do not affect the others), the coalescing of their acks ([`ledger`]), and the administration
//! requests.

mod acks;
mod attachment;
mod auto_delete_check;
mod batch_acks;
mod batches;
mod command;
mod consumer;
mod delayed;
mod fences;
mod flushes;
mod getter;
mod handout;
mod lane;
mod ledger;
mod locks;
mod lost_channels;
mod notes;
mod operate;
mod refill;
mod returns;
mod schedule_log;
mod status;
mod streams;
mod unconfirmed_verdicts;
mod verdicts;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture, join_all};

use self::auto_delete_check::AutoDeleteCheck;
use self::batches::Batches;
use self::consumer::AmqpConsumerControl;
use self::delayed::Delayed;
use self::getter::Getter;
use self::notes::Notebook;
use self::schedule_log::AmqpScheduleLog;
use super::{
    Administration, Broker, Capabilities, Consumer, ConsumerControl, DeleteGuard, Delivery, ExchangeInfo,
    Lock, Locked, Note, Notes, Publication, QueueInfo, Register, Registers, ScheduleLog, Settlement,
    Subscription,
};
use crate::connection::amqp::link::lock;
use crate::connection::amqp::{Amqp, Outgoing, codec, delay, runtime};
use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::routing::{Binding, Topology};

/// How long consumers may take to stop when the broker is closed.
const STOP: Duration = Duration::from_secs(5);

/// RabbitMQ.
pub(super) struct AmqpBroker {
    amqp: Arc<Amqp>,
    delayed: Arc<Delayed>,
    getter: Getter,
    batches: Batches,
    auto_delete_check: AutoDeleteCheck,
    notebook: Notebook,
    schedules: AmqpScheduleLog,
    /// Consumers that are running, and some that have ended.
    consumers: Mutex<Vec<Arc<AmqpConsumerControl>>>,
    /// Set by the first `close`.
    closed: Mutex<bool>,
}

impl AmqpBroker {
    /// Opens the broker at an address. It connects on first use.
    ///
    /// # Errors
    /// An invalid address, or a TLS file that cannot be read.
    pub(super) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let amqp = Amqp::open(url, options)?;
        Ok(Self {
            delayed: Arc::new(Delayed::new(Arc::clone(&amqp))),
            getter: Getter::new(Arc::clone(&amqp)),
            batches: Batches::new(Arc::clone(&amqp)),
            auto_delete_check: AutoDeleteCheck::default(),
            notebook: Notebook::new(Arc::clone(&amqp)),
            schedules: AmqpScheduleLog::new(Arc::clone(&amqp)),
            amqp,
            consumers: Mutex::default(),
            closed: Mutex::default(),
        })
    }
}

impl Broker for AmqpBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "RabbitMQ",
            counts_crashes: false,
            lists_queues: false,
            peeks: false,
            max_delay: delay::MAX_DELAY,
            max_early: Duration::from_secs(1),
        }
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        async move {
            topology.validate()?;
            let desired = &self.amqp.desired;
            let declare = async |mut scratch| desired.declare(&mut scratch, topology).await;
            self.amqp.ask(&describe(topology), declare).await?;
            self.amqp.keep_bound();
            Ok(())
        }
        .boxed()
    }

    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>> {
        let Publication { exchange, routing_key, message, delay, mandatory } = publication;
        if let Some(delay) = delay.filter(|delay| !delay.is_zero()) {
            return async move {
                let published = self.delayed.publish(delay, &exchange, &routing_key, &message).await;
                published.map_err(|error| addressed(error, &exchange, &routing_key))
            }
            .boxed();
        }
        // Outside the future: everything it captures is moved and allocated with it, for each publish.
        let outgoing = match Outgoing::new(&exchange, &routing_key, message, mandatory) {
            Ok(outgoing) => Arc::new(outgoing),
            Err(error) => return future::ready(Err(error)).boxed(),
        };
        async move {
            let published = self.amqp.publisher.publish(Arc::clone(&outgoing)).await;
            published.map_err(|error| addressed(error, outgoing.exchange(), outgoing.routing_key()))
        }
        .boxed()
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        async move {
            let (consumer, control) = consumer::open(&self.amqp, subscription).await?;
            let mut consumers = lock(&self.consumers);
            consumers.retain(|control| !control.is_over());
            consumers.push(control);
            Ok(consumer)
        }
        .boxed()
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>>> {
        self.getter.get(queue).boxed()
    }

    fn get_many<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        async move {
            check_queue(queue)?;
            if most == 0 || self.auto_delete_check.ask(&self.amqp, queue).await? {
                return self.batches.take(queue, most).await;
            }
            let mut taken = Vec::new();
            while taken.len() < most
                && let Some(delivery) = self.getter.get(queue).await?
            {
                taken.push(delivery);
            }
            Ok(taken)
        }
        .boxed()
    }

    fn schedule_log(&self) -> Option<&dyn ScheduleLog> {
        Some(&self.schedules)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if std::mem::replace(&mut *lock(&self.closed), true) {
                return;
            }
            let consumers = std::mem::take(&mut *lock(&self.consumers));
            let stop = join_all(consumers.iter().map(async |control| {
                control.cancel().await;
                control.flush().await;
            }));
            // Deliveries that are not settled by then are requeued when the connection is closed.
            let _ = runtime::timeout(STOP, stop).await;
            self.getter.end().await;
            let _ = runtime::timeout(STOP, self.batches.flush()).await;
            self.amqp.close().await;
        }
        .boxed()
    }
}

impl Administration for AmqpBroker {
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>> {
        operate::queues(&self.amqp, names).boxed()
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>> {
        operate::purge(&self.amqp, queue).boxed()
    }

    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            operate::delete_queue(&self.amqp, queue).await?;
            self.amqp.desired.forget_queue(queue);
            self.delayed.forget_queue(queue);
            Ok(())
        }
        .boxed()
    }

    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        async move {
            let lost = operate::delete_queue_if(&self.amqp, queue, guard).await?;
            self.amqp.desired.forget_queue(queue);
            self.delayed.forget_queue(queue);
            Ok(lost)
        }
        .boxed()
    }

    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        operate::exchanges(&self.amqp, names).boxed()
    }

    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        async move {
            operate::delete_exchange(&self.amqp, exchange, guard).await?;
            self.amqp.desired.forget_exchange(exchange);
            Ok(())
        }
        .boxed()
    }

    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        async move {
            operate::unbind(&self.amqp, binding).await?;
            self.amqp.desired.forget_binding(binding);
            Ok(())
        }
        .boxed()
    }

    fn alarm(&self) -> Option<String> {
        self.amqp.alarm()
    }
}

impl Registers for AmqpBroker {
    fn note<'a>(&'a self, register: Register, note: &'a Note) -> BoxFuture<'a, Result<()>> {
        self.notebook.note(register, note).boxed()
    }

    fn notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        self.notebook.notes(register, from).boxed()
    }

    fn newer_notes(&self, register: Register, from: u64) -> BoxFuture<'_, Result<Notes>> {
        self.notebook.newer_notes(register, from).boxed()
    }

    fn is_noted<'a>(
        &'a self,
        register: Register,
        id: &'a str,
        lifetime: Duration,
    ) -> BoxFuture<'a, Result<bool>> {
        self.notebook.is_noted(register, id, lifetime).boxed()
    }

    fn lock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<Locked>> {
        locks::lock(&self.amqp, lock).boxed()
    }

    fn extend_lock<'a>(&'a self, lock: &'a Lock, wait: Duration) -> BoxFuture<'a, Result<Locked>> {
        locks::extend_lock(&self.amqp, lock, wait).boxed()
    }

    fn unlock<'a>(&'a self, lock: &'a Lock) -> BoxFuture<'a, Result<()>> {
        locks::unlock(&self.amqp, lock).boxed()
    }
}

/// Describes a declaration for errors: ``declare queue `email` ``.
fn describe(topology: &Topology) -> String {
    match (&topology.exchanges[..], &topology.queues[..]) {
        ([], []) if topology.bindings.len() == 1 => {
            let Binding { exchange, queue, .. } = &topology.bindings[0];
            format!("bind queue `{queue}` to exchange `{exchange}`")
        }
        ([], [queue]) => format!("declare queue `{}`", queue.name),
        ([exchange], []) => format!("declare exchange `{}`", exchange.name),
        (exchanges, queues) => {
            let names: Vec<String> = exchanges
                .iter()
                .map(|exchange| format!("exchange `{}`", exchange.name))
                .chain(queues.iter().map(|queue| format!("queue `{}`", queue.name)))
                .take(8)
                .collect();
            match names.is_empty() {
                true => "declare bindings".into(),
                false => format!("declare {}", names.join(", ")),
            }
        }
    }
}

/// Adds the address to an unroutable error: the broker's own message does not name it.
fn addressed(error: Error, exchange: &str, routing_key: &str) -> Error {
    match (error.is_unroutable(), exchange) {
        (false, _) => error,
        (true, "") => error.context(format_args!("there is no queue `{routing_key}`")),
        (true, name) => error.context(format_args!("exchange `{name}`, routing key `{routing_key}`")),
    }
}

/// Converts a delivery, without the traces of a delay.
fn to_delivery(queue: &Arc<str>, delivery: lapin::message::Delivery, settlement: Settlement) -> Delivery {
    let (exchange, routing_key) =
        delay::without_delay(queue, delivery.exchange.as_str(), delivery.routing_key.as_str());
    Delivery {
        message: codec::from_amqp(&delivery.properties, delivery.data),
        queue: Arc::clone(queue),
        exchange,
        routing_key,
        redelivered: delivery.redelivered,
        crashes: None,
        settlement,
    }
}

/// Checks the length of a queue name.
fn check_queue(queue: &str) -> Result<()> {
    match queue.len() {
        0 => Err(Error::new(ErrorKind::Config, "the name of a queue is empty")),
        1..=255 => Ok(()),
        length => Err(Error::config(format!("the name of a queue is {length} bytes long; AMQP allows 255"))),
    }
}
