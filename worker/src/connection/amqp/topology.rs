//! Declaring exchanges, queues and bindings, and declaring them again after a reconnect.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use lapin::ErrorKind;
use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::Value;

use super::channel::Scratch;
use super::codec::to_value;
use super::delay::{self, Rung, Target};
use super::failure::{code, is_channel_error, reply_code, text};
use super::link::{Session, lock};
use super::runtime::sleep;
use crate::routing::{Binding, Exchange, ExchangeKind, Overflow, Queue, QueueKind, Topology};
use crate::tracing::{debug, warn};

/// A quorum queue with a dead-letter exchange gives up on a message that many workers died of.
const DELIVERY_LIMIT: i32 = 20;
/// Without a dead-letter exchange a limit throws messages away, for instance a dead letter that was looked at too
/// often. RabbitMQ 4 sets one of 20 unless a queue says otherwise, so it says a number that is never reached.
const NO_DELIVERY_LIMIT: i32 = i32::MAX;
/// How long an exclusive queue of the connection before may still be locked.
const LOCKED_FOR: Duration = Duration::from_secs(5);

/// What was declared and must be there again after a reconnect.
pub(crate) struct Desired {
    kind: QueueKind,
    topology: Mutex<Topology>,
    /// Queues whose other arguments were warned about.
    warned: Mutex<HashSet<String>>,
}

impl Desired {
    pub(super) fn new(kind: QueueKind) -> Self {
        Self { kind, topology: Mutex::default(), warned: Mutex::default() }
    }

    /// Declares, and remembers what was declared.
    pub(crate) async fn declare(&self, scratch: &mut Scratch, topology: &Topology) -> lapin::Result<()> {
        for exchange in topology.exchanges.iter().filter(|exchange| !exchange.external) {
            scratch.declare_exchange(exchange).await?;
        }
        for queue in topology.queues.iter().filter(|queue| !queue.external) {
            self.declare_queue(scratch, queue, LOCKED_FOR).await?;
        }
        let mut known = lock(&self.topology).clone();
        known.merge(topology.clone());
        for binding in &topology.bindings {
            match scratch.bind(binding).await {
                Err(error)
                    if reply_code(&error) == Some(code::NOT_FOUND) && known.has_external_end(binding) =>
                {
                    // Said, and tried again, by the task that looks after such bindings.
                    debug!(
                        queue = binding.queue,
                        exchange = binding.exchange,
                        reason = text(&error),
                        "not bound yet"
                    );
                }
                bound => bound?,
            }
        }
        self.bind_to_exit(scratch, topology).await?;
        lock(&self.topology).merge(topology.clone());
        Ok(())
    }

    /// Declares everything again. What the broker refuses is left out with a warning: the rest must work.
    pub(super) async fn restore(&self, session: Session) -> lapin::Result<()> {
        let mut topology = lock(&self.topology).clone();
        let mut scratch = Scratch::new(session);
        for exchange in topology.exchanges.iter().filter(|exchange| !exchange.external) {
            tolerate("exchange", &exchange.name, scratch.declare_exchange(exchange).await)?;
        }
        let mut locked = HashSet::new();
        for queue in topology.queues.iter().filter(|queue| !queue.external) {
            match self.declare_queue(&mut scratch, queue, Duration::ZERO).await {
                // Nobody else waits for it: whoever consumes it makes it anew as soon as it is gone.
                Err(error) if reply_code(&error) == Some(code::RESOURCE_LOCKED) => {
                    debug!(
                        queue = queue.name,
                        "the broker still holds the queue for the previous connection"
                    );
                    locked.insert(queue.name.clone());
                }
                declared => tolerate("queue", &queue.name, declared)?,
            }
        }
        let external: Vec<Binding> =
            topology.bindings.iter().filter(|binding| topology.has_external_end(binding)).cloned().collect();
        // What others declare may not exist yet; such bindings are looked after all the time.
        topology.bindings.retain(|binding| !locked.contains(&binding.queue) && !external.contains(binding));
        for binding in &topology.bindings {
            tolerate("binding of queue", &binding.queue, scratch.bind(binding).await)?;
        }
        self.bind_to_exit(&mut scratch, &topology).await
    }

    /// Declares one queue again that went missing. `false` when it was not ours to declare.
    pub(crate) async fn restore_queue(&self, session: &Session, name: &str) -> lapin::Result<bool> {
        let only = {
            let all = lock(&self.topology);
            Topology {
                exchanges: Vec::new(),
                queues: all.queues.iter().filter(|queue| queue.name == name).cloned().collect(),
                bindings: all.bindings.iter().filter(|binding| binding.queue == name).cloned().collect(),
            }
        };
        if only.queues.iter().all(|queue| queue.external) {
            return Ok(false);
        }
        self.declare(&mut Scratch::new(session.clone()), &only).await?;
        self.let_delayed_in(session, name).await.map(|()| true)
    }

    /// True when others declare this queue.
    pub(crate) fn is_external(&self, queue: &str) -> bool {
        lock(&self.topology).queues.iter().any(|known| known.external && known.name == queue)
    }

    /// A queue that was found again may be a new one of the same name, which nothing is bound to. One that is managed
    /// stays as long as its broker has its data, so this is for the others.
    pub(crate) async fn bind_anew(&self, session: &Session, queue: &str) -> lapin::Result<()> {
        let (may_be_new, bindings) = {
            let all = lock(&self.topology);
            let own = all.queues.iter().find(|known| known.name == queue);
            let may_be_new = own.is_some_and(|own| !own.is_managed() || !own.durable);
            let bindings = all.bindings.iter().filter(|binding| may_be_new && binding.queue == queue);
            (may_be_new, bindings.cloned().collect::<Vec<_>>())
        };
        let mut scratch = Scratch::new(session.clone());
        for binding in &bindings {
            if let Err(error) = scratch.bind(binding).await {
                debug!(
                    queue,
                    exchange = binding.exchange,
                    reason = text(&error),
                    "cannot bind the queue yet"
                );
                if !is_channel_error(&error) {
                    return Err(error);
                }
            }
        }
        if may_be_new { self.let_delayed_in(session, queue).await } else { Ok(()) }
    }

    /// Binds a queue that is new to the end of the ladders: retries of its messages may be waiting there, and the broker
    /// keeps them until they can be routed.
    async fn let_delayed_in(&self, session: &Session, queue: &str) -> lapin::Result<()> {
        let Ok(key) = Target::Queue(queue).binding() else { return Ok(()) };
        match Scratch::new(session.clone()).bind_to_exit(queue, &key).await {
            // Nothing was ever delayed on this broker.
            Err(error) if !is_channel_error(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The bindings whose queue or exchange others declare.
    pub(super) fn external_bindings(&self) -> Vec<Binding> {
        let all = lock(&self.topology);
        all.bindings.iter().filter(|binding| all.has_external_end(binding)).cloned().collect()
    }

    /// Makes one binding, with the one that delayed messages take.
    pub(super) async fn bind(&self, session: &Session, binding: &Binding) -> lapin::Result<()> {
        let mut scratch = Scratch::new(session.clone());
        scratch.bind(binding).await?;
        let topology = Topology { bindings: vec![binding.clone()], ..Topology::default() };
        self.bind_to_exit(&mut scratch, &topology).await
    }

    /// Forgets a queue that was deleted on purpose.
    pub(crate) fn forget_queue(&self, name: &str) {
        let mut topology = lock(&self.topology);
        topology.queues.retain(|queue| queue.name != name);
        topology.bindings.retain(|binding| binding.queue != name);
    }

    /// Forgets an exchange that was deleted on purpose, with its bindings.
    pub(crate) fn forget_exchange(&self, name: &str) {
        let mut topology = lock(&self.topology);
        topology.exchanges.retain(|exchange| exchange.name != name);
        topology.bindings.retain(|binding| binding.exchange != name);
    }

    /// Takes a binding away, with the one that delayed messages take.
    pub(crate) async fn unbind(&self, scratch: &mut Scratch, binding: &Binding) -> lapin::Result<()> {
        let Binding { exchange, queue, routing_key } = binding;
        scratch.unbind(queue, exchange, routing_key).await?;
        let kind = self.kind_of(exchange, &Topology::default());
        if let Ok(key) = delay::exchange_binding(exchange, kind, routing_key) {
            // There may be no such exchange yet, or one that is not for this user.
            match scratch.unbind(queue, delay::EXIT, &key).await {
                Err(error) if !is_channel_error(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets a binding that was taken away on purpose.
    pub(crate) fn forget_binding(&self, gone: &Binding) {
        lock(&self.topology).bindings.retain(|binding| binding != gone);
    }

    /// An exclusive queue that is locked is waited for, up to `patience`.
    async fn declare_queue(
        &self,
        scratch: &mut Scratch,
        queue: &Queue,
        patience: Duration,
    ) -> lapin::Result<()> {
        let options = QueueDeclareOptions {
            passive: false,
            durable: queue.durable,
            exclusive: queue.exclusive,
            auto_delete: queue.auto_delete,
            nowait: false,
        };
        let name = short(&queue.name)?;
        let arguments = further(arguments(queue, self.kind), &queue.arguments)?;
        let mut waited = Duration::ZERO;
        loop {
            let (name, arguments) = (name.clone(), arguments.clone());
            let declared =
                scratch.run(async |c| c.queue_declare(name, options, arguments).await.map(drop)).await;
            match declared {
                // The broker still believes in our connection before this one, which owned the queue.
                Err(error) if reply_code(&error) == Some(code::RESOURCE_LOCKED) && waited < patience => {
                    let pause = Duration::from_millis(200);
                    sleep(pause).await;
                    waited += pause;
                }
                Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => {
                    return self.take_as_it_is(scratch, queue, error).await;
                }
                declared => return declared,
            }
        }
    }

    /// Never deleted and made anew: another fleet's queue stays theirs.
    async fn take_as_it_is(
        &self,
        scratch: &mut Scratch,
        queue: &Queue,
        refused: lapin::Error,
    ) -> lapin::Result<()> {
        let name = short(&queue.name)?;
        let there = scratch
            .run(async |c| {
                c.queue_declare(
                    name,
                    QueueDeclareOptions { passive: true, ..Default::default() },
                    FieldTable::default(),
                )
                .await
                .map(drop)
            })
            .await;
        // A queue that is not there was refused for what was asked, not for what it is.
        there.map_err(|_| refused.clone())?;
        if lock(&self.warned).insert(queue.name.clone()) {
            warn!(
                queue = queue.name,
                reason = text(&refused),
                "the queue exists with other arguments and is used as it is"
            );
        }
        Ok(())
    }

    /// Lets delayed messages to the exchanges of these bindings reach their queues. A user who may not bind there
    /// loses only that.
    async fn bind_to_exit(&self, scratch: &mut Scratch, topology: &Topology) -> lapin::Result<()> {
        let bindings = topology.bindings.iter().filter(|binding| !binding.exchange.is_empty());
        let mut exit = false;
        for binding in bindings {
            let kind = self.kind_of(&binding.exchange, topology);
            let Ok(key) = delay::exchange_binding(&binding.exchange, kind, &binding.routing_key) else {
                continue;
            };
            let bind = async |scratch: &mut Scratch| {
                if !exit {
                    scratch.declare_exchange(&Exchange::new(delay::EXIT, ExchangeKind::Topic)).await?;
                }
                scratch.bind_to_exit(&binding.queue, &key).await
            };
            match bind(scratch).await {
                Ok(()) => exit = true,
                Err(error) if is_channel_error(&error) => {
                    debug!(
                        queue = binding.queue,
                        reason = text(&error),
                        "delayed messages will not reach the queue"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn kind_of(&self, exchange: &str, topology: &Topology) -> Option<ExchangeKind> {
        let kind = |exchanges: &[Exchange]| exchanges.iter().find(|e| e.name == exchange).map(|e| e.kind);
        kind(&topology.exchanges).or_else(|| kind(&lock(&self.topology).exchanges)).or(match exchange {
            "amq.fanout" => Some(ExchangeKind::Fanout),
            "amq.headers" | "amq.match" => Some(ExchangeKind::Headers),
            _ => None,
        })
    }
}

/// True when the broker refused an exchange because it is of another kind.
fn names_the_kind(error: &lapin::Error) -> bool {
    text(error).contains("'type'")
}

fn tolerate(what: &str, name: &str, done: lapin::Result<()>) -> lapin::Result<()> {
    match done {
        Err(error) if is_channel_error(&error) => {
            warn!(name, reason = text(&error), "cannot declare the {what} again after a reconnect");
            Ok(())
        }
        done => done,
    }
}

impl Scratch {
    async fn declare_exchange(&mut self, exchange: &Exchange) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            ..Default::default()
        };
        let kind = match exchange.kind {
            ExchangeKind::Direct => lapin::ExchangeKind::Direct,
            ExchangeKind::Fanout => lapin::ExchangeKind::Fanout,
            ExchangeKind::Topic => lapin::ExchangeKind::Topic,
            ExchangeKind::Headers => lapin::ExchangeKind::Headers,
        };
        let name = short(&exchange.name)?;
        let arguments = further(FieldTable::default(), &exchange.arguments)?;
        let declared = self.run(async |c| c.exchange_declare(name, kind, options, arguments).await).await;
        match declared {
            // Another kind would send messages elsewhere; whether it stays or goes is its owner's affair.
            Err(error)
                if reply_code(&error) == Some(code::PRECONDITION_FAILED) && !names_the_kind(&error) =>
            {
                warn!(
                    exchange = exchange.name,
                    reason = text(&error),
                    "the exchange exists with other arguments and is used as it is"
                );
                Ok(())
            }
            declared => declared,
        }
    }

    async fn bind(&mut self, binding: &Binding) -> lapin::Result<()> {
        let (queue, exchange, key) =
            (short(&binding.queue)?, short(&binding.exchange)?, short(&binding.routing_key)?);
        self.run(async |c| {
            c.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    async fn unbind(&mut self, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
        let (queue, exchange, key) = (short(queue)?, short(exchange)?, short(key)?);
        self.run(async |c| c.queue_unbind(queue, exchange, key, FieldTable::default()).await).await
    }

    /// Binds a queue to the end of the ladders.
    pub(crate) async fn bind_to_exit(&mut self, queue: &str, key: &str) -> lapin::Result<()> {
        let binding = Binding { exchange: delay::EXIT.into(), queue: queue.into(), routing_key: key.into() };
        self.bind(&binding).await
    }

    /// The ladders, from the exit upwards.
    pub(crate) async fn declare_ladders(&mut self) -> lapin::Result<()> {
        self.declare_exchange(&Exchange::new(delay::EXIT, ExchangeKind::Topic)).await?;
        for rung in delay::seconds_ladder().iter().chain(&delay::small_ladder()) {
            self.declare_rung(rung).await?;
        }
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
        self.declare_or_take(delay::SINK, arguments).await?;
        self.bind_to_exit(delay::SINK, &delay::sink_binding()).await
    }

    async fn declare_rung(&mut self, rung: &Rung) -> lapin::Result<()> {
        self.declare_exchange(&Exchange::new(&*rung.name, ExchangeKind::Topic)).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), long("quorum"));
        arguments.insert("x-dead-letter-strategy".into(), long("at-least-once"));
        arguments.insert("x-overflow".into(), long("reject-publish"));
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(millis(rung.stay)));
        arguments.insert("x-dead-letter-exchange".into(), long(&rung.below));
        self.declare_or_take(&rung.name, arguments).await?;
        let (name, stops) = (rung.name.clone(), rung.stops.clone());
        self.bind(&Binding { exchange: name.clone(), queue: name, routing_key: stops }).await?;
        let (below, name, falls) = (short(&rung.below)?, short(&rung.name)?, short(&rung.falls)?);
        self.run(async |c| {
            c.exchange_bind(below, name, falls, ExchangeBindOptions::default(), FieldTable::default()).await
        })
        .await
    }

    /// A fleet that configured classic rungs has its own.
    async fn declare_or_take(&mut self, name: &str, arguments: FieldTable) -> lapin::Result<()> {
        let name = short(name)?;
        let declared = self
            .run(async |c| c.queue_declare(name, QueueDeclareOptions::durable(), arguments).await.map(drop))
            .await;
        match declared {
            Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => Ok(()),
            declared => declared,
        }
    }
}

/// Names are checked before they come here; an error is still no panic.
pub(crate) fn short(name: &str) -> lapin::Result<ShortString> {
    ShortString::try_new(name)
        .map_err(|error| ErrorKind::IOError(std::sync::Arc::new(std::io::Error::other(error))).into())
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The kind that is asked for; `None` leaves it to the broker.
fn queue_type(queue: &Queue, default: QueueKind) -> Option<&'static str> {
    // The broker refuses quorum queues that do not stay, and 3.10 such with priorities.
    let must_be_classic =
        queue.exclusive || queue.auto_delete || !queue.durable || queue.max_priority.is_some();
    // Whoever else declares an exact queue names no type either.
    match queue.kind.unwrap_or(if queue.exact { QueueKind::Broker } else { default }) {
        QueueKind::Broker => None,
        QueueKind::Quorum if !must_be_classic => Some("quorum"),
        QueueKind::Quorum | QueueKind::Classic => Some("classic"),
    }
}

fn arguments(queue: &Queue, default: QueueKind) -> FieldTable {
    let mut arguments = FieldTable::default();
    let kind = queue_type(queue, default);
    let mut set = |name: &str, value: Option<AMQPValue>| {
        if let Some(value) = value {
            arguments.insert(name.into(), value);
        }
    };
    set("x-queue-type", kind.map(long));
    set("x-max-priority", queue.max_priority.map(|most| AMQPValue::LongInt(most.into())));
    let length = queue.max_length.map(|length| i64::try_from(length).unwrap_or(i64::MAX));
    set("x-max-length", length.map(AMQPValue::LongLongInt));
    set(
        "x-overflow",
        queue.overflow.map(|overflow| {
            long(match overflow {
                Overflow::DropHead => "drop-head",
                Overflow::RejectPublish => "reject-publish",
            })
        }),
    );
    set("x-message-ttl", queue.message_ttl.map(|ttl| AMQPValue::LongLongInt(millis(ttl))));
    // Zero is not allowed there.
    set("x-expires", queue.expires.map(|expires| AMQPValue::LongLongInt(millis(expires).max(1))));
    set("x-dead-letter-exchange", queue.dead_letter_exchange.as_deref().map(long));
    set("x-dead-letter-routing-key", queue.dead_letter_routing_key.as_deref().map(long));
    let limit = if queue.dead_letter_exchange.is_some() { DELIVERY_LIMIT } else { NO_DELIVERY_LIMIT };
    let is_limited = kind == Some("quorum") && !queue.exact;
    set("x-delivery-limit", is_limited.then_some(AMQPValue::LongInt(limit)));
    arguments
}

/// With the arguments that were written out.
fn further(mut table: FieldTable, arguments: &BTreeMap<String, Value>) -> lapin::Result<FieldTable> {
    for (name, value) in arguments {
        // Its names are checked before they come here, as those of queues are.
        let value = to_value(value, 0).map_err(|error| std::io::Error::other(error.to_string()))?;
        table.insert(short(name)?, value);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_follows_what_the_queue_needs() {
        let plain = Queue::new("q");
        let priorities = Queue { max_priority: Some(9), ..plain.clone() };
        let exclusive = Queue { exclusive: true, ..plain.clone() };
        let classic = Queue { kind: Some(QueueKind::Classic), ..plain.clone() };
        let (quorum, broker) = (QueueKind::Quorum, QueueKind::Broker);
        assert_eq!(queue_type(&plain, quorum), Some("quorum"));
        assert_eq!(queue_type(&priorities, quorum), Some("classic"));
        assert_eq!(queue_type(&exclusive, quorum), Some("classic"));
        assert_eq!(queue_type(&classic, quorum), Some("classic"));
        assert_eq!(queue_type(&plain, broker), None);
    }

    #[test]
    fn an_exact_queue_has_the_arguments_that_are_written_and_no_others() {
        let none = arguments(&Queue::exact("q"), QueueKind::Quorum);
        assert_eq!(none, FieldTable::default());
        let queue = Queue { kind: Some(QueueKind::Quorum), ..Queue::exact("q").argument("x-max-length", 10) };
        let table = further(arguments(&queue, QueueKind::Classic), &queue.arguments).expect("short names");
        let mut names: Vec<&str> = table.inner().keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-max-length", "x-queue-type"]);
    }

    #[test]
    fn there_is_no_delivery_limit_without_a_dead_letter_exchange() {
        let plain = Queue::new("q");
        let dead = Queue { dead_letter_exchange: Some(String::new()), ..plain.clone() };
        let limit = |queue, kind| arguments(queue, kind).inner().get("x-delivery-limit").cloned();
        assert_eq!(limit(&dead, QueueKind::Quorum), Some(AMQPValue::LongInt(20)));
        assert_eq!(limit(&plain, QueueKind::Quorum), Some(AMQPValue::LongInt(i32::MAX)));
        assert_eq!(limit(&dead, QueueKind::Classic), None);
    }
}
