//! Channels that are always closed.
//!
//! A `lapin` handle is never just dropped. A consumer whose reply came too late would stay registered at the broker and
//! hold its deliveries for as long as the connection lives; and `lapin` can deadlock when the last handle to a channel
//! is dropped just as the connection is lost (decision 0006). So a dropped channel is closed by a task on the I/O
//! thread, which keeps the handles until the channel is closed, and cuts the connection if the broker does not reply.

use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::show;
use crate::tracing::warn;
use lapin::{Channel, Consumer};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::failure::timed_out;
use super::runtime;
use super::session::Session;

/// Timeout for broker replies that have no other limit.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Timeout for closing a channel.
const CLOSING: Duration = Duration::from_secs(10);
/// A channel that is still in use after this time is leaked rather than dropped.
const LEAKED_AFTER: Duration = Duration::from_secs(120);

/// Timeout for opening a channel.
const OPENING: Duration = Duration::from_secs(60);

impl Session {
    /// Opens a channel. One that opens after the caller gave up is closed again.
    pub(crate) async fn channel(&self) -> lapin::Result<OpenChannel> {
        let session = self.clone();
        // A separate task outlives a caller that gives up, and then drops the channel, which closes it.
        let opening = self.io.spawn(async move {
            let channel = runtime::timeout(OPENING, session.connection.create_channel()).await;
            Ok(OpenChannel::new(channel.unwrap_or_else(|_| Err(timed_out()))?, session))
        });
        opening.await.unwrap_or_else(|_| Err(timed_out()))
    }
}

/// A channel, and the consumer on it. Dropping it closes it.
pub(crate) struct OpenChannel {
    channel: Channel,
    pub(super) consumer: Option<Consumer>,
    session: Session,
    /// Set before messages are requested on it: until it is closed, it may hold some.
    may_hold: AtomicBool,
    is_closing: bool,
}

impl OpenChannel {
    pub(super) fn new(channel: Channel, session: Session) -> Self {
        Self { channel, consumer: None, session, may_hold: AtomicBool::new(false), is_closing: false }
    }

    /// Marks a channel that may hold messages: if the broker does not close it, the connection is cut.
    pub(crate) fn will_hold(&self) {
        self.may_hold.store(true, Ordering::Relaxed);
    }

    /// The generation of the connection that it belongs to.
    pub(crate) fn generation(&self) -> u64 {
        self.session.generation
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Closes it, and resolves when it is closed. The broker replies only after processing everything written before.
    pub(crate) async fn close(mut self) {
        // An error means that the process is exiting.
        let _ = self.start_closing().await;
    }

    fn start_closing(&mut self) -> JoinHandle<()> {
        self.is_closing = true;
        let (channel, consumer) = (self.channel.clone(), self.consumer.take());
        let may_hold = self.may_hold.load(Ordering::Relaxed);
        self.session.io.spawn(close(channel, consumer, self.session.clone(), may_hold))
    }
}

impl Deref for OpenChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for OpenChannel {
    fn drop(&mut self) {
        if !self.is_closing {
            drop(self.start_closing());
        }
    }
}

async fn close(channel: Channel, consumer: Option<Consumer>, session: Session, may_hold: bool) {
    if session.is_alive() && channel.status().connected() {
        let closed = timeout(CLOSING, channel.close(200, "done".into())).await;
        // The broker does not reply on a blocked connection, but does not deliver on it either.
        if closed.is_err() && may_hold && session.is_alive() && !session.is_blocked() {
            warn!(
                channel = channel.id(),
                after = %show::duration(CLOSING),
                "the broker does not close a channel that may hold messages: the connection is ended"
            );
            session.abandon();
        }
    }
    // `lapin` changes the state and removes the consumers from the channel in one step, on this thread or while it
    // holds no other lock.
    let since = Instant::now();
    while is_in_use(&channel) {
        if since.elapsed() > LEAKED_AFTER {
            return std::mem::forget((channel, consumer));
        }
        sleep(Duration::from_millis(50)).await;
    }
}

fn is_in_use(channel: &Channel) -> bool {
    let status = channel.status();
    status.initializing() || status.connected() || status.closing()
}

/// A channel for requests that may fail: the broker closes it at the first failure, and the next request opens a
/// new one.
pub(crate) struct Scratch {
    pub(crate) session: Session,
    channel: Option<OpenChannel>,
}

impl Scratch {
    pub(crate) fn new(session: Session) -> Self {
        Self { session, channel: None }
    }

    pub(crate) async fn run<T, F>(&mut self, ask: impl FnOnce(Channel) -> F) -> lapin::Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => self.session.channel().await?,
        };
        let answer = ask(channel.channel.clone()).await;
        if answer.is_ok() {
            self.channel = Some(channel);
        }
        answer
    }
}
