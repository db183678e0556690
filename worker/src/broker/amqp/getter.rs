//! Takes single messages from queues, and settles them on the same channel.

use std::collections::HashSet;
use std::sync::Arc;

use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::to_delivery;
use super::unconfirmed_verdicts::UnconfirmedVerdicts;
use crate::broker::{Delivery, Settle, Settlement, Verdict};
use crate::connection::amqp::channel::{ANSWER, OpenChannel, Scratch};
use crate::connection::amqp::declare::short;
use crate::connection::amqp::link::{Session, lock};
use crate::connection::amqp::{Amqp, runtime};
use crate::error::Result;

/// Takes single messages.
pub(super) struct Getter {
    amqp: Arc<Amqp>,
    open: Mutex<Option<Open>>,
    /// Verdicts that are being written.
    settling: TaskTracker,
    unconfirmed_verdicts: Arc<std::sync::Mutex<UnconfirmedVerdicts>>,
}

/// The open channel.
struct Open {
    settler: Arc<GetSettler>,
    /// Queues known to exist: getting from a missing one would close the channel.
    known: HashSet<String>,
}

/// Settles the messages taken on one channel. The channel may be closed once the last one is settled.
struct GetSettler {
    channel: OpenChannel,
    amqp: Arc<Amqp>,
    settling: TaskTracker,
    unconfirmed_verdicts: Arc<std::sync::Mutex<UnconfirmedVerdicts>>,
}

impl Settle for GetSettler {
    fn settle(&self, tag: u64, verdict: Verdict) {
        let channel = (*self.channel).clone();
        lock(&self.unconfirmed_verdicts).wrote(1, Instant::now());
        let settle = async move {
            match verdict {
                Verdict::Ack | Verdict::Replaced => channel.basic_ack(tag, BasicAckOptions::default()).await,
                Verdict::Requeue | Verdict::Lost | Verdict::Reject => {
                    let requeue = verdict != Verdict::Reject;
                    channel.basic_nack(tag, BasicNackOptions { multiple: false, requeue }).await
                }
            }
        };
        // If a verdict does not arrive, the message is requeued when its channel closes.
        self.settling.spawn_on(async move { drop(timeout(ANSWER, settle).await) }, self.amqp.io());
    }
}

impl Getter {
    pub(super) fn new(amqp: Arc<Amqp>) -> Self {
        Self {
            amqp,
            open: Mutex::default(),
            settling: TaskTracker::new(),
            unconfirmed_verdicts: Arc::default(),
        }
    }

    pub(super) async fn get(&self, queue: &str) -> Result<Option<Delivery>> {
        let what = format!("get from queue `{queue}`");
        let get = async |session| self.try_get(session, queue).await;
        self.amqp.link.request(&what, self.amqp.limit, get).await
    }

    async fn try_get(&self, session: Session, queue: &str) -> lapin::Result<Option<Delivery>> {
        let name = short(queue)?;
        let mut slot = self.open.lock().await;
        // Flush first: a message that is being requeued may be the one to get now.
        self.flush().await;
        let mut open = match slot.take() {
            Some(open) if open.settler.channel.generation() == session.generation => open,
            _ => {
                let (amqp, settling) = (Arc::clone(&self.amqp), self.settling.clone());
                let unconfirmed_verdicts = Arc::clone(&self.unconfirmed_verdicts);
                let channel = session.channel().await?;
                channel.will_hold();
                Open {
                    settler: Arc::new(GetSettler { channel, amqp, settling, unconfirmed_verdicts }),
                    known: HashSet::new(),
                }
            }
        };
        if !open.known.contains(queue) {
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            let asked = name.clone();
            let checked = Scratch::new(session)
                .run(async |channel| channel.queue_declare(asked, passive, FieldTable::default()).await)
                .await;
            // The channel with the other messages is not affected, and stays open.
            if let Err(error) = checked {
                *slot = Some(open);
                return Err(error);
            }
            open.known.insert(queue.to_owned());
        }
        // If the caller gives up here, the channel lives only as long as the messages taken on it: one that arrives too
        // late is requeued when it closes.
        let got = open.settler.channel.basic_get(name, BasicGetOptions { no_ack: false }).await?;
        let settler = Arc::clone(&open.settler);
        *slot = Some(open);
        let queue = &queue.into();
        Ok(got.map(|message| {
            let settlement = Settlement::new(message.delivery.delivery_tag, settler);
            to_delivery(queue, message.delivery, settlement)
        }))
    }

    /// Waits until the verdicts so far are written, or timed out.
    pub(super) async fn flush(&self) {
        self.settling.close();
        let _ = runtime::timeout(ANSWER, self.settling.wait()).await;
    }

    /// Waits until the broker also has the verdicts, so that the channel may be closed.
    pub(super) async fn end(&self) {
        self.flush().await;
        let now = Instant::now();
        let over = lock(&self.unconfirmed_verdicts).over_at(now);
        if let Some(over) = over {
            runtime::sleep(over - now).await;
        }
    }
}
