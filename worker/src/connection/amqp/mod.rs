//! RabbitMQ through `lapin`: each opened broker has its own supervised connections, shared with the result backend of
//! the same address. A connection is established when it is first needed.
//!
//! One connection publishes, one is for streams, and one does everything else. A broker that is short of memory or disk
//! stops reading from connections that publish, so acks on such a connection would hang too. RabbitMQ also closes the
//! whole connection of a client that uses a stream that is just being declared or has no leader; that must cost no
//! publish its confirm and no task its delivery.

pub(crate) mod address;
pub(crate) mod channel;
mod close_cause;
pub(crate) mod codec;
pub(crate) mod declare;
pub(crate) mod delay;
mod desired;
mod dial;
pub(crate) mod external;
pub(crate) mod failure;
mod frame_filter;
mod greeting;
pub(crate) mod link;
mod lock;
mod outage;
mod outgoing;
pub(crate) mod properties;
mod publish_channel;
mod publish_job;
mod publish_queue;
mod publisher;
mod publishing;
mod reactor;
pub(crate) mod runtime;
mod session;
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

/// Identifies connections that can be shared: the same URL and options.
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
    /// For everything that involves streams.
    pub(crate) streams: Arc<Link>,
    pub(crate) stream_publisher: Publisher,
    pub(crate) desired: Arc<Desired>,
    pub(crate) limit: Duration,
    io: Handle,
    /// Set once the task that maintains external bindings was started.
    maintains_bindings: AtomicBool,
    /// How many users have opened it and not closed it yet.
    users: AtomicUsize,
}

impl Amqp {
    /// Creates connections to an address; each is established when it is first needed.
    ///
    /// Each broker has its own connections, so its consumers and exclusive queues end with it, whatever else is
    /// connected.
    ///
    /// # Errors
    /// An invalid address, or a TLS file that cannot be read.
    pub(crate) fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<Self>> {
        let key = Key { url: url.clone(), options: options.clone() };
        let amqp = Arc::new(Self::new(url, options)?);
        let mut open = lock(&OPEN);
        open.retain(|(_, amqp)| amqp.strong_count() > 0);
        open.push((key, Arc::downgrade(&amqp)));
        Ok(amqp)
    }

    /// Returns the connections of the latest broker opened at this address, or creates new ones if there is none.
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
            maintains_bindings: AtomicBool::new(false),
            users: AtomicUsize::new(1),
        })
    }

    /// Adds a user. Returns `false` if the last one has just left.
    fn join(&self) -> bool {
        self.users
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |users| (users > 0).then_some(users + 1))
            .is_ok()
    }

    /// Sends a request that may safely be repeated, on a channel of its own that is always closed. If the connection is
    /// lost meanwhile, the request is repeated on the next one. `what` completes "cannot".
    ///
    /// # Errors
    /// The broker refused, or did not reply in time.
    pub(crate) async fn ask<T, F>(&self, what: &str, mut ask: impl FnMut(Scratch) -> F) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        self.link.request(what, self.limit, |session| ask(Scratch::new(session))).await
    }

    /// Why the broker currently blocks publishes, if it does.
    pub(crate) fn alarm(&self) -> Option<String> {
        self.publishing.blocked().borrow().clone()
    }

    /// How long the I/O thread has been blocked; `None` while it makes progress.
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

    /// Starts the task that maintains external bindings, if there are any and it is not running yet.
    pub(crate) fn keep_bound(self: &Arc<Self>) {
        if !self.desired.external_bindings().is_empty()
            && !self.maintains_bindings.swap(true, Ordering::AcqRel)
        {
            // It ends with the connections.
            self.spawn(external::keep_bound(Arc::downgrade(self)));
        }
    }

    /// Removes a user; the last one closes the connections. Bounded in time.
    pub(crate) async fn close(&self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        // Bounded, as each publish has its own deadline.
        tokio::join!(self.publisher.flush(), self.stream_publisher.flush());
        tokio::join!(self.publishing.close(), self.streams.close(), self.link.close());
    }
}
