//! One connection, from its login to its loss.

use std::sync::Arc;
use std::time::Duration;

use lapin::Connection;
use tokio::runtime::Handle;

use super::channel::OpenChannel;
use super::dial::Cutter;
use super::failure::timed_out;
use super::runtime::timeout;

/// After so long nobody waits for a channel any more.
const OPENING: Duration = Duration::from_secs(60);

/// One connection, from its login to its loss.
#[derive(Clone)]
pub(crate) struct Session {
    /// Grows with each connection: what belongs to an older one is void.
    pub(crate) generation: u64,
    pub(super) connection: Arc<Connection>,
    pub(super) cutter: Cutter,
    /// The I/O runtime.
    pub(super) io: Handle,
}

impl Session {
    /// Opens a channel. One that opens too late for the caller is closed again.
    pub(crate) async fn channel(&self) -> lapin::Result<OpenChannel> {
        let session = self.clone();
        // A task of its own goes on when the caller has given up, and drops what it opens: that closes it.
        let opening = self.io.spawn(async move {
            let channel = timeout(OPENING, session.connection.create_channel()).await;
            Ok(OpenChannel::new(channel.unwrap_or_else(|_| Err(timed_out()))?, session))
        });
        opening.await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The largest frame that the broker takes on this connection, in bytes.
    pub(crate) fn frame_max(&self) -> usize {
        usize::try_from(self.connection.configuration().frame_max()).unwrap_or(usize::MAX)
    }

    /// False when the connection is gone, even if the supervisor has not noticed yet.
    pub(crate) fn is_alive(&self) -> bool {
        self.connection.status().connected()
    }

    /// True while the broker reads nothing from this connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Ends the connection, since it does not do what it must. The supervisor makes a new one.
    pub(super) fn abandon(&self) {
        self.cutter.cut();
    }
}
