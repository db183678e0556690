//! Publishes with a delay: makes sure that the ladders and the target exist, then publishes to a ladder.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::connection::amqp::channel::Scratch;
use crate::connection::amqp::delay::{Ladder, Target};
use crate::connection::amqp::link::lock;
use crate::connection::amqp::{Amqp, Outgoing};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;

/// A queue that was deleted and declared again has lost its binding; it is bound again after this time.
const BOUND_FOR: Duration = Duration::from_secs(60);
/// How many targets are remembered.
const REMEMBERED: usize = 10_000;

pub(super) struct Delayed {
    amqp: Arc<Amqp>,
    /// Set once the ladders exist. They are durable; if they are deleted, the next publish notices and declares them
    /// again.
    ladders: Mutex<Arc<OnceCell<()>>>,
    /// When each target queue was bound to the exit.
    bound: Mutex<HashMap<String, Instant>>,
}

impl Delayed {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self { amqp, ladders: Mutex::default(), bound: Mutex::default() }
    }

    /// Publishes to a ladder. The target is bound first, since a message that no queue takes at the end of the ladder
    /// would go unnoticed.
    pub(super) async fn publish(
        &self,
        delay: Duration,
        exchange: &str,
        routing_key: &str,
        message: &Message,
    ) -> Result<()> {
        let begun = Instant::now();
        let target = Target::new(exchange, routing_key);
        // Report a mistake before anything is done.
        Ladder::choose(delay)?.map(|ladder| ladder.key(&target)).transpose()?;
        self.prepare(target).await?;
        match self.send(delay, begun, target, message).await {
            // The ladder may have been deleted.
            Err(error) if error.is_topology() || error.is_unroutable() => {
                *lock(&self.ladders) = Arc::default();
                lock(&self.bound).clear();
                self.prepare(target).await?;
                self.send(delay, begun, target, message).await
            }
            done => done,
        }
    }

    async fn send(
        &self,
        delay: Duration,
        begun: Instant,
        target: Target<'_>,
        message: &Message,
    ) -> Result<()> {
        // Binding a queue may take as long as a short delay, so subtract that time. A longer delay is cut to whole
        // seconds, so it would lose a whole one.
        let rest = if delay < Duration::from_secs(1) { delay.saturating_sub(begun.elapsed()) } else { delay };
        let outgoing = match Ladder::choose(rest)? {
            Some(ladder) => {
                let key = ladder.key(&target)?;
                Outgoing::new(&ladder.entry(), &key, message.clone(), true)?.with_room(ladder.traces(&key))
            }
            None => {
                let (exchange, routing_key) = target.address();
                Outgoing::new(exchange, routing_key, message.clone(), true)?
            }
        };
        self.amqp.publisher.publish(outgoing).await
    }

    pub(super) fn forget_queue(&self, queue: &str) {
        lock(&self.bound).remove(queue);
    }

    async fn prepare(&self, target: Target<'_>) -> Result<()> {
        let ladders = Arc::clone(&lock(&self.ladders));
        ladders.get_or_try_init(|| self.declare_ladders()).await?;
        match target {
            Target::Queue(queue) => self.bind(queue, target.binding()?).await,
            // Its queues were bound to the exit when they were bound to the exchange.
            Target::Exchange { .. } => Ok(()),
        }
    }

    async fn declare_ladders(&self) -> Result<()> {
        let declare = async |mut scratch: Scratch| scratch.declare_ladders().await;
        self.amqp.ask("declare the queues for delays", declare).await
    }

    async fn bind(&self, queue: &str, key: String) -> Result<()> {
        if lock(&self.bound).get(queue).is_some_and(|since| since.elapsed() < BOUND_FOR) {
            return Ok(());
        }
        let bind = async |mut scratch: Scratch| scratch.bind_to_exit(queue, &key).await;
        self.amqp
            .ask(&format!("delay a message to queue `{queue}`"), bind)
            .await
            // At the end of the ladder, a missing queue would not be noticed.
            .map_err(|error| match error.is_topology() {
                true => Error::new(ErrorKind::Unroutable, "no queue takes the message").with_source(error),
                false => error,
            })?;
        let mut bound = lock(&self.bound);
        if bound.len() >= REMEMBERED {
            bound.clear();
        }
        bound.insert(queue.to_owned(), Instant::now());
        Ok(())
    }
}
