//! Remembers what was declared through a connection, and declares it again after a reconnect.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use super::channel::Scratch;
use super::declare::{arguments, further, short};
use super::delay::{self, Target};
use super::failure::{code, is_channel_error, reply_code, text};
use super::link::{Session, lock};
use super::runtime::sleep;
use crate::routing::{Binding, Exchange, ExchangeKind, Queue, QueueKind, Topology};
use crate::tracing::{debug, warn};

/// How long an exclusive queue of the previous connection may still be locked.
const LOCKED_FOR: Duration = Duration::from_secs(5);

/// What was declared and must exist again after a reconnect.
pub(crate) struct Desired {
    kind: QueueKind,
    topology: Mutex<Topology>,
    /// Queues that exist with other arguments and were already warned about.
    warned: Mutex<HashSet<String>>,
}

impl Desired {
    pub(super) fn new(kind: QueueKind) -> Self {
        Self { kind, topology: Mutex::default(), warned: Mutex::default() }
    }

    /// Declares a topology, and remembers it.
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
                    // Reported and tried again by the task that maintains external bindings.
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

    /// Declares everything again. Anything the broker refuses is skipped with a warning: the rest must work.
    pub(super) async fn restore(&self, session: Session) -> lapin::Result<()> {
        let mut topology = lock(&self.topology).clone();
        let mut scratch = Scratch::new(session);
        for exchange in topology.exchanges.iter().filter(|exchange| !exchange.external) {
            tolerate("exchange", &exchange.name, scratch.declare_exchange(exchange).await)?;
        }
        let mut locked = HashSet::new();
        for queue in topology.queues.iter().filter(|queue| !queue.external) {
            match self.declare_queue(&mut scratch, queue, Duration::ZERO).await {
                // Do not wait for it: its consumer declares it again as soon as the old one is gone.
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
        // An external queue or exchange may not exist yet; a separate task maintains these bindings.
        topology.bindings.retain(|binding| !locked.contains(&binding.queue) && !external.contains(binding));
        for binding in &topology.bindings {
            tolerate("binding of queue", &binding.queue, scratch.bind(binding).await)?;
        }
        self.bind_to_exit(&mut scratch, &topology).await
    }

    /// Declares a missing queue again. Returns `false` if this program did not declare it.
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
        self.bind_for_delayed(session, name).await.map(|()| true)
    }

    /// True when others declare this queue.
    pub(crate) fn is_external(&self, queue: &str) -> bool {
        lock(&self.topology).queues.iter().any(|known| known.external && known.name == queue)
    }

    /// Binds a queue again if it may be a new one of the same name, without bindings. A managed durable queue lasts as
    /// long as the broker keeps its data, so only other queues are bound again.
    pub(crate) async fn rebind(&self, session: &Session, queue: &str) -> lapin::Result<()> {
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
        if may_be_new { self.bind_for_delayed(session, queue).await } else { Ok(()) }
    }

    /// Binds a new queue to the exit of the ladders: retries of its messages may be waiting there, and the broker keeps
    /// them until they can be routed.
    async fn bind_for_delayed(&self, session: &Session, queue: &str) -> lapin::Result<()> {
        let Ok(key) = Target::Queue(queue).binding() else { return Ok(()) };
        match Scratch::new(session.clone()).bind_to_exit(queue, &key).await {
            // A channel error means that nothing was ever delayed on this broker.
            Err(error) if !is_channel_error(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The bindings with an external queue or exchange.
    pub(super) fn external_bindings(&self) -> Vec<Binding> {
        let all = lock(&self.topology);
        all.bindings.iter().filter(|binding| all.has_external_end(binding)).cloned().collect()
    }

    /// Makes a binding, and the one for delayed messages.
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

    /// Removes a binding, and the one for delayed messages.
    pub(crate) async fn unbind(&self, scratch: &mut Scratch, binding: &Binding) -> lapin::Result<()> {
        let Binding { exchange, queue, routing_key } = binding;
        scratch.unbind(queue, exchange, routing_key).await?;
        let kind = self.kind_of(exchange, &Topology::default());
        if let Ok(key) = delay::exchange_binding(exchange, kind, routing_key) {
            // The exit may not exist yet, or this user may have no access to it.
            match scratch.unbind(queue, delay::EXIT, &key).await {
                Err(error) if !is_channel_error(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets a binding that was removed on purpose.
    pub(crate) fn forget_binding(&self, gone: &Binding) {
        lock(&self.topology).bindings.retain(|binding| binding != gone);
    }

    /// Declares a queue. Waits for a locked exclusive queue, up to `patience`.
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
                // The broker has not noticed the loss of our previous connection yet, which owned the queue.
                Err(error) if reply_code(&error) == Some(code::RESOURCE_LOCKED) && waited < patience => {
                    let pause = Duration::from_millis(200);
                    sleep(pause).await;
                    waited += pause;
                }
                Err(error) if reply_code(&error) == Some(code::PRECONDITION_FAILED) => {
                    return self.accept_existing(scratch, queue, error).await;
                }
                declared => return declared,
            }
        }
    }

    /// Uses an existing queue as it is. It is never deleted and declared again: it may belong to another fleet.
    async fn accept_existing(
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
        // If the queue does not exist, the broker refused the requested arguments themselves.
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

    /// Binds the queues of these bindings to the exit, so that delayed messages to their exchanges arrive. If the
    /// broker refuses, only delayed messages are affected.
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

fn tolerate(what: &str, name: &str, done: lapin::Result<()>) -> lapin::Result<()> {
    match done {
        Err(error) if is_channel_error(&error) => {
            warn!(name, reason = text(&error), "cannot declare the {what} again after a reconnect");
            Ok(())
        }
        done => done,
    }
}
