//! One supervised connection: connect, restore the topology, serve; after any loss, drop everything and start over.
//!
//! The first connection and every recovery take the same code path. `lapin`'s own recovery stays off: it registers each
//! binding twice, does not report lost deliveries, and leaves a consumer hanging after a channel error.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use lapin::Event;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::dial::{CutOnDrop, Cutter, dial};
use super::failure::{Failure, is_channel_error, is_out_of_reach, to_error};
pub(crate) use super::lock::lock;
use super::outage::Outage;
use super::runtime::{self, timeout, timeout_at};
pub(crate) use super::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::tracing::{info, warn};

/// How often a connection is checked: `lapin` does not report the loss of an idle one. A caller that uses one notices
/// at once and reports it.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// How long a request may still be answered, or fail with a reason, after its connection was lost.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// RabbitMQ reports a queue as inaccessible while another connection declares it. If it still does after this time, a
/// node is down.
const DECLARE_GRACE: Duration = Duration::from_secs(1);
/// Timeout for closing a connection cleanly.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Restores what a new connection needs before it is used.
pub(super) type Restore = Box<dyn Fn(Session) -> BoxFuture<'static, lapin::Result<()>> + Send + Sync>;

/// One supervised connection, established on first use.
pub(crate) struct Link {
    inner: Arc<Inner>,
    started: AtomicBool,
}

struct Inner {
    address: Address,
    /// The connection name that the broker shows to its operators.
    name: String,
    dial_limit: Duration,
    restore: Restore,
    state: watch::Sender<LinkState>,
    /// Why the broker blocks publishes on this connection, while it does.
    blocked: watch::Sender<Option<String>>,
    look: Notify,
    /// The I/O runtime.
    io: Handle,
    stop: CancellationToken,
    done: CancellationToken,
}

/// The state of a link.
#[derive(Clone)]
pub(crate) enum LinkState {
    /// No connection, with the reason if an attempt was made.
    Down(Option<Failure>),
    /// Connected and restored.
    Up(Session),
    /// Closed by this program, permanently.
    Closed,
}

impl Link {
    pub(super) fn new(
        address: Address,
        name: String,
        dial_limit: Duration,
        restore: Restore,
        io: Handle,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                address,
                name,
                dial_limit,
                restore,
                state: watch::Sender::new(LinkState::Down(None)),
                blocked: watch::Sender::new(None),
                look: Notify::new(),
                io,
                stop: CancellationToken::new(),
                done: CancellationToken::new(),
            }),
            started: AtomicBool::new(false),
        }
    }

    fn start(&self) {
        if !self.started.swap(true, Ordering::AcqRel) {
            self.inner.io.spawn(supervise(Arc::clone(&self.inner)));
        }
    }

    /// Watches the state of the link, and starts the link if necessary.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.start();
        self.inner.state.subscribe()
    }

    /// True while there is a connection, as far as is known.
    pub(crate) fn is_up(&self) -> bool {
        matches!(&*self.inner.state.borrow(), LinkState::Up(session) if session.is_alive())
    }

    /// True once this program has closed it, permanently.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(&*self.inner.state.borrow(), LinkState::Closed)
    }

    /// Watches whether the broker blocks publishes, and why.
    pub(crate) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.inner.blocked.subscribe()
    }

    /// Waits for a session that is newer than `after`.
    ///
    /// # Errors
    /// Timed out, or another attempt would not help: for instance, the broker refused the login.
    pub(crate) async fn session(&self, after: u64, deadline: Instant) -> Result<Session> {
        let mut state = self.watch();
        let mut last = None;
        loop {
            match &*state.borrow_and_update() {
                LinkState::Up(session) if session.generation > after && session.is_alive() => {
                    return Ok(session.clone());
                }
                LinkState::Up(_) => self.inner.look.notify_one(),
                LinkState::Down(Some(failure)) if failure.is_final => return Err(failure.to_error()),
                LinkState::Down(failure) => last = failure.clone().or(last),
                LinkState::Closed => return Err(closed()),
            }
            if timeout_at(deadline, state.changed()).await.is_err() {
                return Err(match last {
                    Some(failure) => failure.to_error(),
                    None => Error::cause(
                        ErrorKind::Connection,
                        format!("no connection to `{}` yet", self.inner.address.shown),
                    ),
                });
            }
        }
    }

    /// Waits for a session, before a request that may take longer than connecting may.
    ///
    /// # Errors
    /// No session within `limit`, or another attempt would not help.
    pub(crate) async fn reach(&self, what: &str, limit: Duration) -> Result<()> {
        let session = self.session(0, Instant::now() + limit).await;
        session.map(drop).map_err(|error| error.context(format!("cannot {what}")))
    }

    /// Resolves shortly after the connection of this generation was lost. `lapin` may never answer a request that was sent at
    /// that moment, not even with an error.
    async fn lost(&self, generation: u64) {
        let is_served =
            |state: &LinkState| matches!(state, LinkState::Up(session) if session.generation == generation);
        // An error means that the link is gone.
        let _ = self.watch().wait_for(|state| !is_served(state)).await;
        runtime::sleep(LAST_ANSWERS).await;
    }

    /// Runs a request that may safely be repeated. If the connection is lost meanwhile, it is repeated on the next one.
    ///
    /// # Errors
    /// The broker refused, or did not reply within `limit`.
    pub(crate) async fn request<T, F>(
        &self,
        what: &str,
        limit: Duration,
        mut ask: impl FnMut(Session) -> F,
    ) -> Result<T>
    where
        F: Future<Output = lapin::Result<T>>,
    {
        let begun = Instant::now();
        let deadline = begun + limit;
        let mut after = 0;
        loop {
            let session = self
                .session(after, deadline)
                .await
                .map_err(|error| error.context(format!("cannot {what}")))?;
            let answered = tokio::select! {
                biased;
                answered = timeout_at(deadline, ask(session.clone())) => answered,
                () = self.lost(session.generation) => {
                    after = session.generation;
                    continue;
                }
            };
            match answered {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if is_out_of_reach(&error) && begun.elapsed() < DECLARE_GRACE.min(limit) => {
                    runtime::sleep(DECLARE_GRACE / 20).await;
                    continue;
                }
                Ok(Err(error)) if session.is_alive() || is_channel_error(&error) => {
                    return Err(to_error(format!("cannot {what}"), error));
                }
                Ok(Err(_)) => after = session.generation,
                Err(_) => {
                    return Err(Error::timeout(format!(
                        "cannot {what}: no answer within {}",
                        humantime::format_duration(limit)
                    )));
                }
            }
            self.inner.look.notify_one();
        }
    }

    /// Closes the connection cleanly, within a few seconds.
    pub(crate) async fn close(&self) {
        self.inner.stop.cancel();
        if self.started.load(Ordering::Acquire) {
            // An error means that the I/O thread is blocked.
            let _ = timeout(CLOSE_TIMEOUT * 2, self.inner.done.cancelled()).await;
        }
        self.inner.state.send_replace(LinkState::Closed);
    }

    pub(crate) fn suspect(&self) {
        self.inner.look.notify_one();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.inner.stop.cancel();
    }
}

pub(crate) fn closed() -> Error {
    Error::connection("the connection to the broker was closed by this program")
}

/// Runs a link until it is closed or dropped.
async fn supervise(inner: Arc<Inner>) {
    let _done = inner.done.clone().drop_guard();
    let mut generation = 0;
    let mut pause = Pause::default();
    let mut outage = Outage::default();
    loop {
        // Cuts the connection however this iteration ends.
        let cut = CutOnDrop(Cutter::default());
        let connected = tokio::select! {
            () = inner.stop.cancelled() => break,
            connected = connect(&inner, generation + 1, &cut.0) => connected,
        };
        let lost = match connected {
            Ok(session) => {
                generation = session.generation;
                outage.ends(&inner.name, generation);
                pause.connected();
                let since = Instant::now();
                inner.state.send_replace(LinkState::Up(session.clone()));
                let lost = serve(&inner, &session).await;
                if since.elapsed() > Duration::from_secs(10) {
                    pause = Pause::default();
                }
                lost
            }
            Err(failure) => Some(failure),
        };
        drop(cut);
        let Some(failure) = lost else { break };
        outage.record(&inner.name, &failure);
        inner.blocked.send_replace(None);
        let wait = pause.next(failure.is_final);
        inner.state.send_replace(LinkState::Down(Some(failure.at(&inner.address.shown))));
        tokio::select! {
            () = inner.stop.cancelled() => break,
            () = sleep(wait) => {}
        }
    }
    inner.state.send_replace(LinkState::Closed);
}

async fn connect(inner: &Inner, generation: u64, cutter: &Cutter) -> Result<Session, Failure> {
    let connection = dial(&inner.address, &inner.name, inner.dial_limit, cutter).await?;
    let (connection, cutter) = (Arc::new(connection), cutter.clone());
    let session = Session { generation, connection, cutter, io: inner.io.clone() };
    match timeout(inner.dial_limit, (inner.restore)(session.clone())).await {
        Ok(Ok(())) => Ok(session),
        Ok(Err(error)) => Err(Failure { is_final: false, ..Failure::from(&error) }),
        Err(_) => Err(Failure::connection("the broker did not answer while queues were declared again")),
    }
}

/// Serves until the connection is lost (returns why) or the link is closed (`None`).
async fn serve(inner: &Inner, session: &Session) -> Option<Failure> {
    let connection = &session.connection;
    let mut events = std::pin::pin!(connection.events_listener());
    let mut said = None;
    while connection.status().connected() {
        tokio::select! {
            () = inner.stop.cancelled() => {
                // An error means that it was gone already.
                let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "goodbye".into())).await;
                return None;
            }
            event = events.next() => match event {
                Some(Event::ConnectionBlocked(reason)) => {
                    warn!(connection = inner.name, reason, "the broker accepts no messages");
                    inner.blocked.send_replace(Some(reason));
                }
                Some(Event::ConnectionUnblocked) => {
                    info!(connection = inner.name, "the broker accepts messages again");
                    inner.blocked.send_replace(None);
                }
                Some(Event::Error(error)) => said = Some(error),
                Some(_) => {}
                None => break,
            },
            () = inner.look.notified() => {}
            () = sleep(CHECK_INTERVAL) => {}
        }
    }
    // Channel errors arrive here too; they are not why a connection was lost.
    let why = said.filter(|error| !is_channel_error(error)).map(|error| super::failure::text(&error));
    Some(Failure::connection(why.unwrap_or_else(|| "the connection was lost".into())))
}

/// Backoff between attempts: hardly any at first, then up to five seconds, with jitter.
#[derive(Default)]
pub(crate) struct Pause(u32);

impl Pause {
    pub(crate) fn next(&mut self, is_final: bool) -> Duration {
        let limit = match self.0 {
            _ if is_final => 5_000,
            0 => 50,
            n => (100_u64 << n.min(6)).min(5_000),
        };
        self.0 = self.0.saturating_add(1);
        Duration::from_millis(fastrand::u64(limit / 2..=limit))
    }

    /// Shortens the backoff without resetting it: a server that accepts and then drops us is not redialled at full
    /// speed.
    fn connected(&mut self) {
        self.0 = self.0.min(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_quick_and_the_later_ones_are_bounded() {
        let mut pause = Pause::default();
        assert!(pause.next(false) <= Duration::from_millis(50));
        for _ in 0..100 {
            assert!(pause.next(false) <= Duration::from_secs(5));
        }
        assert!(pause.next(false) >= Duration::from_millis(2_500));
        pause.connected();
        assert!(pause.next(false) <= Duration::from_millis(400));
    }
}
