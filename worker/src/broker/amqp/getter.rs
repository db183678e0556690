//! Taking single messages out of queues: one task with one channel, on which they are settled too.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::to_delivery;
use crate::broker::{Delivery, Settle, Settlement, Verdict};
use crate::connection::amqp::Amqp;
use crate::connection::amqp::link::{Session, closed};
use crate::connection::amqp::topology::{Scratch, short};
use crate::error::{Error, Result};

/// How long an ack may take; nobody waits for it.
const ANSWER: Duration = Duration::from_secs(5);

enum Command {
    Get(Arc<str>, oneshot::Sender<Result<Option<Delivery>>>),
    Settle { channel: u64, tag: u64, verdict: Verdict },
    Flush(oneshot::Sender<()>),
}

/// Asks the task. It ends when this and all its deliveries are gone.
pub(super) struct Getter {
    /// Unbounded, since a verdict must not block; there are no more of them than messages were taken.
    commands: mpsc::UnboundedSender<Command>,
}

struct Sink {
    channel: u64,
    commands: mpsc::UnboundedSender<Command>,
}

impl Settle for Sink {
    fn settle(&self, tag: u64, verdict: Verdict) {
        // An error means that the connection was closed: the broker has the message back.
        let _ = self.commands.send(Command::Settle { channel: self.channel, tag, verdict });
    }
}

impl Getter {
    pub(super) fn start(amqp: &Arc<Amqp>) -> Self {
        let (commands, inbox) = mpsc::unbounded_channel();
        let weak = commands.downgrade();
        amqp.spawn(Actor { amqp: Arc::clone(amqp), commands: weak, open: None, number: 0 }.run(inbox));
        Self { commands }
    }

    pub(super) async fn get(&self, queue: &str) -> Result<Option<Delivery>> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Get(queue.into(), reply)).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Resolves when the verdicts so far are written.
    pub(super) async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Flush(reply)).is_ok() {
            let _ = answer.await;
        }
    }
}

struct Actor {
    amqp: Arc<Amqp>,
    commands: mpsc::WeakUnboundedSender<Command>,
    open: Option<Open>,
    number: u64,
}

/// The channel, while it lives.
struct Open {
    channel: Channel,
    session: Session,
    sink: Arc<dyn Settle>,
    /// Queues that were there: to ask a channel for one that is not would close it.
    known: HashSet<Arc<str>>,
}

impl Actor {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Get(queue, reply) => {
                    let limit = self.amqp.limit;
                    let got = timeout(limit, self.get(&queue)).await.unwrap_or_else(|_| {
                        self.open = None;
                        let limit = humantime::format_duration(limit);
                        Err(Error::timeout(format!(
                            "cannot get from queue `{queue}`: no answer within {limit}"
                        )))
                    });
                    // A message that nobody waits for any more goes back by being dropped.
                    let _ = reply.send(got);
                }
                Command::Settle { channel, tag, verdict } if channel == self.number => {
                    self.settle(tag, verdict).await;
                }
                Command::Settle { .. } => {}
                Command::Flush(reply) => {
                    let _ = reply.send(());
                }
            }
        }
    }

    async fn get(&mut self, queue: &Arc<str>) -> Result<Option<Delivery>> {
        let amqp = Arc::clone(&self.amqp);
        let what = format!("get from queue `{queue}`");
        // A place that several attempts may share.
        let this = tokio::sync::Mutex::new(self);
        amqp.link
            .request(&what, amqp.limit, async |session| this.lock().await.try_get(&session, queue).await)
            .await
    }

    async fn try_get(&mut self, session: &Session, queue: &Arc<str>) -> lapin::Result<Option<Delivery>> {
        if self.open.as_ref().is_none_or(|open| open.session.generation != session.generation) {
            self.number += 1;
            let channel = session.channel().await?;
            let commands = self.commands.upgrade().ok_or_else(gone)?;
            let sink = Arc::new(Sink { channel: self.number, commands });
            self.open = Some(Open { channel, session: session.clone(), sink, known: HashSet::new() });
        }
        let open = self.open.as_mut().expect("it was opened above");
        if !open.known.contains(queue) {
            let name = short(queue)?;
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let checked = Scratch::new(session)
                .run(async |channel| channel.queue_declare(name, passive, FieldTable::default()).await)
                .await;
            // The channel that other messages are on is not to blame, and stays.
            checked?;
            open.known.insert(Arc::clone(queue));
        }
        let got = open.channel.basic_get(short(queue)?, BasicGetOptions { no_ack: false }).await;
        let sink = Arc::clone(&open.sink);
        if got.is_err() {
            self.open = None;
        }
        Ok(got?.map(|message| {
            let settlement = Settlement::new(message.delivery.delivery_tag, sink);
            to_delivery(queue, message.delivery, settlement)
        }))
    }

    async fn settle(&mut self, tag: u64, verdict: Verdict) {
        let Some(open) = &self.open else { return };
        let settle = async {
            match verdict {
                Verdict::Ack | Verdict::Replaced => {
                    open.channel.basic_ack(tag, BasicAckOptions::default()).await
                }
                Verdict::Requeue | Verdict::Lost => {
                    open.channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue: true }).await
                }
            }
        };
        if !matches!(timeout(ANSWER, settle).await, Ok(Ok(()))) {
            self.open = None;
        }
    }
}

fn gone() -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into()
}
