//! What the operating system asks of us.

/// A request to stop.
pub(super) struct Signal {
    /// Its name, for people.
    pub(super) name: &'static str,
    /// The exit code of a program that it ended.
    pub(super) code: u8,
}

/// The requests to stop, from now on. A process 1, as in a container, gets only the signals that it asked for.
#[cfg(unix)]
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen; within the async runtime.
    pub(super) fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal { name: "SIGINT", code: 130 },
            _ = self.terminate.recv() => Signal { name: "SIGTERM", code: 143 },
        }
    }
}

/// The requests to stop, from now on.
#[cfg(not(unix))]
pub(super) struct Signals;

#[cfg(not(unix))]
impl Signals {
    /// Begins to listen; within the async runtime.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self)
    }

    pub(super) async fn next(&mut self) -> Signal {
        // Where Ctrl-C cannot be heard there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal { name: "Ctrl-C", code: 130 }
    }
}
