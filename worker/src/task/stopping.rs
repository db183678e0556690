//! Stopping a single call. Most calls are never stopped and pay nothing for it: the worker's token is shared, and a call
//! gets its own only when it is awaited or cancelled.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The ways in which a call can be stopped.
pub(crate) struct Stopping {
    /// Cancelled at a cold shutdown.
    worker: CancellationToken,
    own: OnceLock<CancellationToken>,
    revoked: AtomicBool,
    /// Notified when the call is revoked, for code between the worker and the call.
    revocation: Notify,
    terminated: Notify,
}

impl From<CancellationToken> for Stopping {
    fn from(worker: CancellationToken) -> Self {
        Self {
            worker,
            own: OnceLock::new(),
            revoked: AtomicBool::new(false),
            revocation: Notify::new(),
            terminated: Notify::new(),
        }
    }
}

impl Stopping {
    /// Cancelled when the call should stop, for any reason.
    pub(crate) fn token(&self) -> &CancellationToken {
        self.own.get_or_init(|| self.worker.child_token())
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.worker.is_cancelled() || self.own.get().is_some_and(CancellationToken::is_cancelled)
    }

    /// Asks the call to stop because it was revoked.
    pub(crate) fn revoke(&self) {
        // Set first: code that sees the token cancelled checks why.
        self.revoked.store(true, Ordering::Release);
        self.token().cancel();
        self.revocation.notify_one();
    }

    pub(crate) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Resolves when the call is revoked. For one listener: the permit is stored until it is awaited.
    #[cfg(unix)]
    pub(crate) async fn revoked(&self) {
        while !self.is_revoked() {
            self.revocation.notified().await;
        }
    }

    /// Stops the call by force, without waiting for its cooperation.
    pub(crate) fn terminate(&self) {
        self.revoke();
        // One permit is kept for a later call of `terminated`.
        self.terminated.notify_one();
    }

    /// Resolves when the call is to be stopped by force.
    pub(crate) async fn terminated(&self) {
        self.terminated.notified().await;
    }
}
