//! The client: sends commands to workers and collects their replies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Clock, Command, Mailbox, Reply, mailbox};
use crate::broker::{Broker, Publication, Subscription};
use crate::connection::background;
use crate::error::{Error, Result};
use crate::routing::Topology;
use crate::tracing;

/// How many replies are prefetched; more nodes only take more rounds.
const PREFETCH: u16 = 256;

/// Sends commands to workers and collects their replies.
///
/// ```no_run
/// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
/// use mq_worker::control::Control;
///
/// let control = Control::new(app.broker().await?);
/// for reply in control.ask("ping", Default::default()).await? {
///     println!("{} is alive", reply.node);
/// }
/// control.to(["mail@host-1"]).tell("shutdown", Default::default()).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Control {
    broker: Arc<dyn Broker>,
    destination: Option<Vec<String>>,
    timeout: Duration,
    clock: Arc<Clock>,
}

impl Control {
    /// Addresses all workers, and waits one second for their replies.
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, destination: None, timeout: Duration::from_secs(1), clock: Arc::default() }
    }

    /// Addresses these workers only. [`ask`](Self::ask) then returns as soon as all of them have replied.
    #[must_use]
    pub fn to(&self, nodes: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self { destination: Some(nodes.into_iter().map(Into::into).collect()), ..self.clone() }
    }

    /// Sets how long to wait for replies. The number of workers is not known, so a later reply is missed.
    #[must_use]
    pub fn timeout(&self, timeout: Duration) -> Self {
        // A year from now is a valid time on every platform; `Duration::MAX` from now is not.
        Self { timeout: timeout.min(Duration::from_secs(365 * 24 * 3600)), ..self.clone() }
    }

    /// Sends a command without waiting for replies. It is not an error if there are no workers.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us.
    pub async fn tell(&self, method: &str, arguments: Map<String, Value>) -> Result<()> {
        let exchanges = Topology { exchanges: mailbox::exchanges(), ..Topology::default() };
        self.broker.declare(&exchanges).await.map_err(unreached)?;
        self.publish(Command { arguments, ..Command::new(method) }).await.map(drop)
    }

    /// Sends a command and returns the replies, in no particular order. A name that two workers share appears twice.
    ///
    /// # Errors
    /// A broker that cannot be reached or refuses us. It is not an error if no worker replies.
    pub async fn ask(&self, method: &str, arguments: Map<String, Value>) -> Result<Vec<Reply>> {
        self.ask_until(method, arguments, |_| false).await
    }

    /// Like [`ask`](Self::ask), but returns as soon as `enough` is true of the replies so far.
    pub(crate) async fn ask_until(
        &self,
        method: &str,
        arguments: Map<String, Value>,
        enough: impl Fn(&[Reply]) -> bool,
    ) -> Result<Vec<Reply>> {
        let (mailbox, address) = Mailbox::of_client();
        self.broker.declare(&mailbox.topology).await.map_err(unreached)?;
        let subscription = Subscription {
            queues: vec![mailbox.queue.clone()],
            prefetch: PREFETCH,
            name: mailbox.queue.clone(),
        };
        let mut replies = self.broker.consume(subscription).await.map_err(unreached)?;
        let ticket = Uuid::new_v4().to_string();
        let command = Command {
            arguments,
            ticket: Some(ticket.clone()),
            reply_to: Some(address),
            ..Command::new(method)
        };
        let asked = self.publish(command).await;
        let mut answers = Vec::new();
        if matches!(asked, Ok(true)) {
            let begun = Instant::now();
            while !self.is_complete(&answers)
                && !enough(&answers)
                && let left = self.timeout.saturating_sub(begun.elapsed())
                && let Some(Some(delivery)) = background::timeout(left, replies.next()).await?
            {
                answers.extend(self.read(&delivery.message, &ticket));
                delivery.ack();
            }
        }
        let control = replies.control();
        let tidy_up = async {
            control.flush().await;
            control.cancel().await;
            drop(replies);
            let _ = self.broker.delete_queue(&mailbox.queue).await;
        };
        // Best effort: the broker deletes an unused mailbox by itself.
        let _ = background::timeout(Duration::from_secs(1), tidy_up).await;
        asked.map(|_| answers)
    }

    /// Publishes a command. False if there is no mailbox to receive it.
    async fn publish(&self, command: Command) -> Result<bool> {
        let expires = chrono::Utc::now() + self.timeout;
        let wants_reply = command.reply_to.is_some();
        let mut message = Command { destination: self.destination.clone(), ..command }
            .into_message(self.clock.forward())?;
        if wants_reply {
            message.headers.set("expires", expires.timestamp_micros() as f64 / 1e6);
        }
        let publication = Publication {
            exchange: mailbox::COMMANDS.into(),
            message,
            mandatory: true,
            ..Publication::default()
        };
        match self.broker.publish(publication).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_unroutable() => Ok(false),
            Err(error) => Err(unreached(error)),
        }
    }

    fn read(&self, message: &crate::message::Message, ticket: &str) -> Vec<Reply> {
        if let Some(theirs) = message.headers.get("clock").and_then(Value::as_u64) {
            self.clock.adjust(theirs);
        }
        if message.headers.get_str("ticket") != Some(ticket) {
            return Vec::new();
        }
        Reply::from_message(message).unwrap_or_else(|error: Error| {
            tracing::debug!(error = format!("{error:#}"), "a reply that cannot be read");
            Vec::new()
        })
    }

    fn is_complete(&self, answers: &[Reply]) -> bool {
        // Two workers that share a name are two destinations.
        let Some(nodes) = &self.destination else { return false };
        let count = |name: &str| answers.iter().filter(|reply| reply.node == name).count();
        nodes.iter().all(|node| count(node) >= nodes.iter().filter(|name| *name == node).count())
    }
}

fn unreached(error: Error) -> Error {
    error.context("cannot reach the workers")
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control")
            .field("destination", &self.destination)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
