//! RabbitMQ through `lapin`: supervised connections for each broker that is opened, which the result backend of the same
//! address shares. Each is made when it is first needed.
//!
//! One connection publishes, one is for streams, and one does all else. While the broker is short of memory or disk it
//! reads nothing from a connection that publishes, so acks on that connection would hang too. RabbitMQ also closes
//! the whole connection of a client that uses a stream which is just being declared or has no leader: no publish may lose
//! its confirm, and no task its delivery, because of that.

pub(crate) mod address;
mod blame;
pub(crate) mod channel;
pub(crate) mod codec;
pub(crate) mod declare;
pub(crate) mod delay;
mod desired;
mod dial;
pub(crate) mod external;
pub(crate) mod failure;
mod greeting;
pub(crate) mod link;
mod lock;
mod outgoing;
pub(crate) mod properties;
mod publish_channel;
mod publish_job;
mod publisher;
mod publishing;
mod reactor;
pub(crate) mod runtime;
mod session;
mod sieve;
pub(crate) mod subscription;
mod watchdog;
mod window;
mod writes;

pub(crate) use outgoing::Outgoing;
pub(crate) use publisher::Publisher;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use self::address::Address;
use self::channel::Scratch;
use self::desired::Desired;
use self::link::{Link, lock};
use self::watchdog::WATCHDOG;
use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::Result;

/// The open addresses of this process.
static OPEN: Mutex<Vec<(Key, Weak<Amqp>)>> = Mutex::new(Vec::new());

/// Two users share connections when they would open the same ones.
#[derive(Clone, PartialEq)]
struct Key {
    url: BrokerUrl,
    options: ConnectOptions,
}

/// The connections to one address.
pub(crate) struct Amqp {
    /// For everything but publishing.
    pub(crate) link: Arc<Link>,
    publishing: Arc<Link>,
    pub(crate) publisher: Publisher,
    /// For all that has to do with streams.
    pub(crate) streams: Arc<Link>,
    pub(crate) stream_publisher: Publisher,
    pub(crate) desired: Arc<Desired>,
    pub(crate) limit: Duration,
    io: Handle,
    /// Set once the bindings to what others declare are looked after.
    keeps_bound: AtomicBool,
    /// Those who opened it and did not close it.
    users: AtomicUsize,
}

impl Amqp {
    /// New connections to an address. Nothing is connected before it is needed.
    ///
    /// Each broker has its own connections: its consumers and exclusive queues end with it, whatever else is connected.
    ///
    /// # Errors
    /// An address with a mistake, or a file for TLS that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<Self>> {
        let key = Key { url: url.clone(), options: options.clone() };
        let amqp = Arc::new(Self::new(url, options)?);
        let mut open = lock(&OPEN);
        open.retain(|(_, amqp)| amqp.strong_count() > 0);
        open.push((key, Arc::downgrade(&amqp)));
        Ok(amqp)
    }

    /// The connections of a broker at this address, the latest one, or new ones where there is none.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn share(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<Self>> {
        let key = Key { url: url.clone(), options: options.clone() };
        let found = {
            let open = lock(&OPEN);
            open.iter().rev().filter(|(other, _)| *other == key).find_map(|(_, amqp)| amqp.upgrade())
        };
        match found {
            Some(amqp) if amqp.join() => Ok(amqp),
            _ => Self::open(url, options),
        }
    }

    fn new(url: &BrokerUrl, options: &ConnectOptions) -> Result<Self> {
        let address = Address::new(url, &options.tls)?;
        let io = runtime::io()?;
        let dial_limit = options.timeout.clamp(Duration::from_secs(1), Duration::from_secs(10));
        let desired = Arc::new(Desired::new(options.queue_kind));
        let restore = {
            let desired = Arc::clone(&desired);
            move |session| -> futures_util::future::BoxFuture<'static, _> {
                let desired = Arc::clone(&desired);
                Box::pin(async move { desired.restore(session).await })
            }
        };
        let name = |role: &str| format!("{} ({role})", options.name);
        let link = |name, address, restore| Link::new(address, name, dial_limit, restore, io.clone());
        let consuming = Arc::new(link(name("consumer"), address.clone(), Box::new(restore)));
        let bare =
            |role, address| Arc::new(link(name(role), address, Box::new(|_| Box::pin(async { Ok(()) }))));
        let (publishing, streams) = (bare("publisher", address.clone()), bare("streams", address));
        Ok(Self {
            stream_publisher: Publisher::start(Arc::clone(&streams), options.timeout, &io),
            streams,
            publisher: Publisher::start(Arc::clone(&publishing), options.timeout, &io),
            link: consuming,
            publishing,
            desired,
            limit: options.timeout,
            io,
            keeps_bound: AtomicBool::new(false),
            users: AtomicUsize::new(1),
        })
    }

    /// `false` when the last user has just left.
    fn join(&self) -> bool {
        self.users
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| (users > 0).then_some(users + 1))
            .is_ok()
    }

    /// Asks the broker for something that may safely be asked twice: on a channel of its own that is surely closed, and
    /// once more on the next connection when this one is lost meanwhile. `what` completes "cannot".
    ///
    /// # Errors
    /// The broker's refusal, or no answer in time.
    pub(crate) async fn ask<T, F>(&self, what: &str, mut ask: impl FnMut(Scratch) -> F) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        self.link.request(what, self.limit, |session| ask(Scratch::new(session))).await
    }

    /// Why the broker takes no messages at present, if it has said so.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.publishing.blocked().borrow().clone()
    }

    /// How long the I/O thread has stood still; `None` while it comes round.
    pub(crate) fn stalled() -> Option<Duration> {
        WATCHDOG.stalled()
    }

    /// The I/O thread's runtime.
    pub(crate) fn io(&self) -> &Handle {
        &self.io
    }

    /// Starts a task on the I/O thread. The caller decides how it ends.
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.io.spawn(work);
    }

    /// From now on looks after the bindings to what others declare, if there are any.
    pub(crate) fn keep_bound(self: &Arc<Self>) {
        if !self.desired.external_bindings().is_empty() && !self.keeps_bound.swap(true, Ordering::AcqRel) {
            // It ends with the connections.
            self.spawn(external::keep_bound(Arc::downgrade(self)));
        }
    }

    /// One user leaves; after the last one the connections say goodbye. Bounded in time.
    pub(crate) async fn close(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // What was published has its own deadline.
        tokio::join!(self.publisher.flush(), self.stream_publisher.flush());
        tokio::join!(self.publishing.close(), self.streams.close(), self.link.close());
    }
}
