//! The worker's side of remote control: a loop beside the main pipe that takes commands from its own mailbox and answers
//! them.
//!
//! A worker also runs without it: if the mailbox cannot be set up, that is logged once.

mod answers;
mod changes;
mod describe;
mod duplicates;
mod errors;
pub(super) mod pause_reader;
pub(super) mod revocation_reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::admission::limits::ChangedLimits;
use super::admission::pauses::Pauses;
use super::admission::reserved::ReservedRequests;
use super::admission::revocations::Revocations;
use super::execution::running::RunningTasks;
use super::execution::slots::Slots;
use super::handle::WorkerHandle;
use super::heartbeat::Heartbeat;
use super::prefetch::Window;
use super::settlement::persist::Settling;
use super::sources::Sources;
use crate::app::App;
use crate::broker::{Broker, Consumer, Publication, Subscription};
use crate::control::{Addressed, Clock, Command, Mailbox, Reply, mailbox};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::tracing;

/// How many commands are held at once.
const PREFETCH: u16 = 16;
/// The longest pause between attempts to set up the mailbox.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A worker as remote control sees it.
pub(super) struct Node {
    /// Its name; commands are addressed to it.
    pub(super) name: String,
    /// Settings and tasks.
    pub(super) app: App,
    /// The queues that it consumes, with their topology.
    pub(super) sources: Arc<Sources>,
    /// How many messages it reserves.
    pub(super) window: Arc<Window>,
    /// Requests for the deliveries that wait for a slot.
    pub(super) reserved_requests: Arc<ReservedRequests>,
    /// Time limits that were changed.
    pub(super) limits: Arc<ChangedLimits>,
    /// When it started.
    pub(super) since: Instant,
    /// Its running tasks.
    pub(super) running: Arc<RunningTasks>,
    pub(super) slots: Arc<Slots>,
    /// Outcomes that it cannot settle at the moment.
    pub(super) settling: Arc<Settling>,
    /// Calls that it must not run.
    pub(super) revocations: Arc<Revocations>,
    /// Paused queues and tasks.
    pub(super) pauses: Arc<Pauses>,
    /// Stops the worker.
    pub(super) handle: WorkerHandle,
    pub(super) clock: Arc<Clock>,
    /// Sends events, of calls and of the worker itself.
    pub(super) heartbeat: Heartbeat,
}

impl Node {
    /// Answers commands until `over`. A lost mailbox is set up again. `tried` is cancelled after the first attempt to set
    /// it up.
    pub(super) async fn serve(
        self: Arc<Self>,
        broker: Arc<dyn Broker>,
        tried: CancellationToken,
        over: CancellationToken,
    ) {
        let mut pause = Duration::from_secs(1);
        let mut is_logged = false;
        let mut checked = false;
        loop {
            let mailbox = Mailbox::of_worker(&self.name);
            let opened = tokio::select! {
                biased;
                () = over.cancelled() => return,
                opened = open(&*broker, &mailbox) => opened,
            };
            tried.cancel();
            match opened {
                Ok(consumer) => {
                    (pause, is_logged) = (Duration::from_secs(1), false);
                    tracing::debug!(queue = mailbox.queue, "remote control is ready");
                    // Catch up on what was announced while there was no mailbox.
                    self.revocations.look();
                    self.pauses.look();
                    let checked = async {
                        if !std::mem::replace(&mut checked, true) {
                            duplicates::warn(&self.name, Arc::clone(&broker)).await;
                        }
                        std::future::pending().await
                    };
                    tokio::select! {
                        () = self.answer_all(&*broker, consumer, &over) => {}
                        () = checked => {}
                    }
                    if over.is_cancelled() {
                        return close(&*broker, &mailbox).await;
                    }
                    tracing::debug!(
                        queue = mailbox.queue,
                        "the control mailbox was deleted; creating a new one"
                    );
                }
                Err(error) => {
                    if !is_logged {
                        is_logged = true;
                        tracing::warn!(
                            error = format!("{error:#}"),
                            "no remote control (`mq-worker status`, `celery inspect`); the worker continues without it"
                        );
                    }
                    if error.is_access_refused() || error.is_unsupported() {
                        return;
                    }
                }
            }
            tokio::select! {
                () = over.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes commands until `over`, or until the broker ends the consumer.
    async fn answer_all(
        self: &Arc<Self>,
        broker: &dyn Broker,
        mut consumer: Consumer,
        over: &CancellationToken,
    ) {
        loop {
            let delivery = tokio::select! {
                biased;
                () = over.cancelled() => break,
                delivery = consumer.next() => delivery,
            };
            let Some(delivery) = delivery else { return };
            // Acked first, so that each command is carried out at most once: one that was half done is not repeated.
            let message = delivery.message.clone();
            delivery.ack();
            if let Some(reply) = self.answer(&message).await
                && let Err(error) = send(broker, reply).await
            {
                tracing::debug!(error = format!("{error:#}"), "a control reply was not sent");
            }
        }
        let control = consumer.control();
        control.flush().await;
        control.cancel().await;
    }

    /// Carries out the command in a message, and returns the reply if one is wanted.
    async fn answer(self: &Arc<Self>, message: &Message) -> Option<Publication> {
        if let Some(theirs) = message.headers.get("clock").and_then(Value::as_u64) {
            self.clock.adjust(theirs);
        }
        let command = match Command::from_message(message) {
            Ok(command) => command,
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "not a control command");
                return None;
            }
        };
        let value = match command.is_for(&self.name) {
            Addressed::No => return None,
            Addressed::Yes => match command.method.as_str() {
                "add_consumer" => self.add_consumer(&command.arguments).await,
                "reserved" | "dump_reserved" => self.reserved().await,
                "query_task" => self.query_task(&command.arguments).await,
                _ => self.perform(&command)?,
            },
            Addressed::Unclear(matcher) => errors::error(
                "ValueError",
                &format!("{matcher} is not supported: name the nodes, or use `glob`"),
            ),
        };
        let address = command.reply_to?;
        let reply = Reply { node: self.name.clone(), value };
        let message = reply.into_message(command.ticket.as_deref(), self.clock.forward()).ok()?;
        Some(Publication {
            exchange: address.exchange,
            routing_key: address.routing_key,
            message,
            // The client may have given up waiting.
            mandatory: false,
            delay: None,
        })
    }
}

async fn open(broker: &dyn Broker, mailbox: &Mailbox) -> Result<Consumer> {
    let failed = |error: Error| error.context("cannot set up the control mailbox");
    broker.declare(&mailbox.topology).await.map_err(failed)?;
    let subscription =
        Subscription { queues: vec![mailbox.queue.clone()], prefetch: PREFETCH, name: mailbox.queue.clone() };
    broker.consume(subscription).await.map_err(failed)
}

/// Sends a reply to the exchange that the client named. RabbitMQ closes the channel on a publish to a missing exchange, and
/// results go through that channel too, so an unusual exchange is looked up first.
async fn send(broker: &dyn Broker, reply: Publication) -> Result<()> {
    let usual = reply.exchange.is_empty() || reply.exchange == mailbox::REPLIES;
    if !usual && broker.exchanges(std::slice::from_ref(&reply.exchange)).await?.is_empty() {
        return Err(Error::topology(format!("there is no exchange `{}`", reply.exchange)));
    }
    broker.publish(reply).await
}

/// Deletes the mailbox. This is only a courtesy: the broker removes an unused mailbox by itself.
async fn close(broker: &dyn Broker, mailbox: &Mailbox) {
    let _ = tokio::time::timeout(Duration::from_secs(1), broker.delete_queue(&mailbox.queue)).await;
}

#[cfg(test)]
mod tests;
