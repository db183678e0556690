//! Brokers that are broken on purpose, each in a way that real task queues have been broken: the checker must catch them.
//!
//! They wrap the real broker, so that everything else behaves as it really does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use mq_worker::broker::{
    Broker, Consumer, ConsumerControl, Delivery, Publication, Settle, Settlement, Subscription, Verdict,
};
use mq_worker::message::Message;
use tokio::sync::mpsc;

/// Wraps the real broker in a broken one.
pub(crate) type Wrap = fn(Arc<dyn Broker>) -> Arc<dyn Broker>;

/// The environment variable that names the mutation.
pub(crate) const VARIABLE: &str = "FAULTS_MUTATION";

/// Something goes wrong once every this many messages.
const EVERY: u64 = 20;

/// How the broker is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// Messages are acked on delivery.
    EarlyAck,
    /// Occasionally a message is not published, although the caller gets `Ok`.
    DroppedPublish,
    /// Publishing does not wait for the confirm.
    NoConfirm,
    /// After a reconnect, an ack settles whichever message has the same tag on the new channel.
    NewChannelAck,
    /// Occasionally a message is delivered twice.
    Twice,
    /// Occasionally an ack is lost.
    ForgottenAck,
    /// Cancelling a consumer never completes. The worker must stop all the same.
    Silent,
}

const NAMES: [(&str, Mutation); 7] = [
    ("early-ack", Mutation::EarlyAck),
    ("dropped-publish", Mutation::DroppedPublish),
    ("no-confirm", Mutation::NoConfirm),
    ("new-channel-ack", Mutation::NewChannelAck),
    ("twice", Mutation::Twice),
    ("forgotten-ack", Mutation::ForgottenAck),
    ("silent", Mutation::Silent),
];

/// The names of all mutations.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

fn wanted() -> Option<Mutation> {
    let name = std::env::var(VARIABLE).ok()?;
    // Other names belong to the result store.
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, mutation)| *mutation)
}

/// Returns the wrapper if this process is to use a broken broker.
pub(crate) fn of_this_process() -> Option<Wrap> {
    wanted().map(|_| wrap as Wrap)
}

fn wrap(inner: Arc<dyn Broker>) -> Arc<dyn Broker> {
    let mutation = wanted().expect("it was named before");
    Arc::new(Broken { inner, mutation, published: AtomicU64::new(0) })
}

struct Broken {
    inner: Arc<dyn Broker>,
    mutation: Mutation,
    published: AtomicU64,
}

impl Broker for Broken {
    support::forward!(inner: capabilities declare get close);

    fn publish(&self, publication: Publication) -> BoxFuture<'_, mq_worker::Result<()>> {
        let count = self.published.fetch_add(1, Ordering::SeqCst) + 1;
        match self.mutation {
            Mutation::DroppedPublish if count.is_multiple_of(EVERY) => Box::pin(async { Ok(()) }),
            Mutation::NoConfirm => {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(async move { inner.publish(publication).await });
                Box::pin(async { Ok(()) })
            }
            _ => self.inner.publish(publication),
        }
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, mq_worker::Result<Consumer>> {
        Box::pin(async move {
            let (sender, receiver) = mpsc::channel(usize::from(subscription.prefetch) * 2);
            let mut consumer = self.inner.consume(subscription).await?;
            let control = match self.mutation {
                Mutation::Silent => Arc::new(SilentConsumer(consumer.control())),
                _ => consumer.control(),
            };
            let mut breaking = Breaking::new(self.mutation);
            tokio::spawn(async move {
                while let Some(delivery) = consumer.next().await {
                    for delivery in breaking.broken(delivery) {
                        if sender.send(delivery).await.is_err() {
                            return;
                        }
                    }
                }
            });
            Ok(Consumer::new(receiver, control))
        })
    }
}

support::forward_administration!(Broken, inner);

/// Breaks deliveries.
struct Breaking {
    mutation: Mutation,
    count: u64,
    swapped: Arc<Swapped>,
}

impl Breaking {
    fn new(mutation: Mutation) -> Self {
        Self { mutation, count: 0, swapped: Arc::default() }
    }

    fn broken(&mut self, mut delivery: Delivery) -> Vec<Delivery> {
        self.count += 1;
        let is_turn = self.count.is_multiple_of(EVERY);
        match self.mutation {
            Mutation::EarlyAck => delivery.settlement = delivery.settlement.settle_early(),
            Mutation::NewChannelAck => {
                let tag = delivery.settlement.tag();
                let mine = Settlement::new(tag, Arc::clone(&self.swapped) as Arc<dyn Settle>);
                self.swapped.handed_out(std::mem::replace(&mut delivery.settlement, mine));
            }
            Mutation::Twice if is_turn => {
                let copy = copy(&delivery);
                return vec![delivery, copy];
            }
            Mutation::ForgottenAck if is_turn => {
                let kept = std::mem::replace(&mut delivery.settlement, Settlement::new(0, Arc::new(Ignored)));
                std::mem::forget(kept);
            }
            _ => {}
        }
        vec![delivery]
    }
}

fn copy(delivery: &Delivery) -> Delivery {
    let Message { properties, headers, body } = &delivery.message;
    Delivery {
        message: Message { properties: properties.clone(), headers: headers.clone(), body: body.clone() },
        queue: Arc::clone(&delivery.queue),
        exchange: delivery.exchange.clone(),
        routing_key: delivery.routing_key.clone(),
        redelivered: delivery.redelivered,
        crashes: delivery.crashes,
        settlement: Settlement::new(0, Arc::new(Ignored)),
    }
}

/// A control whose `cancel` never completes.
struct SilentConsumer(Arc<dyn ConsumerControl>);

impl ConsumerControl for SilentConsumer {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        self.0.flush()
    }
}

struct Ignored;

impl Settle for Ignored {
    fn settle(&self, _: u64, _: Verdict) {}
}

/// Settles by tag alone. Tags increase on each channel, so a tag that does not is the first of a new channel.
#[derive(Default)]
struct Swapped(Mutex<Channel>);

#[derive(Default)]
struct Channel {
    last: u64,
    out: HashMap<u64, Settlement>,
}

impl Swapped {
    fn handed_out(&self, settlement: Settlement) {
        let mut channel = self.0.lock().expect("never poisoned");
        let tag = settlement.tag();
        if tag <= channel.last {
            // The settlements of the old channel can no longer be used.
            channel.out.drain().for_each(|(_, settlement)| std::mem::forget(settlement));
        }
        channel.last = tag;
        channel.out.insert(tag, settlement);
    }
}

impl Settle for Swapped {
    fn settle(&self, tag: u64, verdict: Verdict) {
        let settlement = self.0.lock().expect("never poisoned").out.remove(&tag);
        if let Some(settlement) = settlement {
            settlement.settle(verdict);
        }
    }
}
