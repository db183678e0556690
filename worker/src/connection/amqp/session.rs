//! One connection, from its login to its loss.

use std::sync::Arc;

use lapin::Connection;
use tokio::runtime::Handle;

use super::dial::Cutter;

/// One connection, from its login to its loss.
#[derive(Clone)]
pub(crate) struct Session {
    /// Increases with each connection; anything from an older one is void.
    pub(crate) generation: u64,
    pub(super) connection: Arc<Connection>,
    pub(super) cutter: Cutter,
    /// The I/O runtime.
    pub(super) io: Handle,
}

impl Session {
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

    /// Cuts a connection that misbehaves. The supervisor makes a new one.
    pub(super) fn abandon(&self) {
        self.cutter.cut();
    }
}
