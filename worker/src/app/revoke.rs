//! Revoking calls.

use std::sync::Arc;

use serde_json::json;

use super::{App, AsyncResult};
use crate::broker::{Broker, Note, Register};
use crate::control::Control;
use crate::error::Result;

/// What happens to a revoked call that is already running.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfRunning {
    Finish,
    Terminate,
}

impl App {
    /// Revokes a call, by its id. A waiting call (queued, delayed or between retries) will not run: the worker that
    /// receives it drops it, even a worker that is started later, within seven days. A running call is
    /// [cancelled](crate::Context::cancelled); if it then fails, it is not retried.
    ///
    /// The state becomes `Revoked` when a worker receives the message. A call that has ended is not affected. Python's
    /// workers receive the revocation too, and remember it until they exit.
    ///
    /// The lock of a unique call is released unless a worker is running it, so the next call need not wait until this one is
    /// due.
    ///
    /// # Errors
    /// The broker does not accept the revocation. If the error [is unsupported](crate::Error::is_unsupported), running
    /// workers have received it nevertheless.
    pub async fn revoke(&self, id: &str) -> Result<()> {
        self.stop_call(id, IfRunning::Finish).await
    }

    /// Revokes a call, and stops it if it runs: an async task at its next await, an isolated one by killing its
    /// process. A plain function cannot be stopped: the call is revoked, and its slot is lost until it returns.
    ///
    /// # Errors
    /// As for [`revoke`](Self::revoke).
    pub async fn terminate(&self, id: &str) -> Result<()> {
        self.stop_call(id, IfRunning::Terminate).await
    }

    async fn stop_call(&self, id: &str, if_running: IfRunning) -> Result<()> {
        let terminate = if_running == IfRunning::Terminate;
        let broker = self.broker().await?;
        // The note comes first: a worker that is just starting either reads it or receives the command. A worker that
        // cannot receive commands has only the note, which must therefore say whether to terminate the call.
        let note = Note { terminate, ..Note::new(id, Register::Revoked.max_lifetime()) };
        let noted = broker.note(Register::Revoked, &note).await;
        if noted.as_ref().is_err_and(|error| error.is_connection() || error.is_timeout()) {
            return noted.map_err(|error| error.context(format_args!("cannot revoke task {id}")));
        }
        // Celery's arguments, and our own `noted`, which spares the workers from noting it again.
        let arguments =
            json!({"task_id": [id], "terminate": terminate, "signal": "SIGTERM", "noted": noted.is_ok()});
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        let sent = Control::new(broker).tell("revoke", arguments).await;
        noted.and(sent).map_err(|error| error.context(format_args!("cannot revoke task {id}")))
    }
}

impl App {
    /// True for a revoked call that no worker runs: it will not be run, however long its message waits. A missing reply
    /// counts as "not running".
    pub(super) async fn is_revoked_and_idle(&self, broker: &Arc<dyn Broker>, id: &str) -> bool {
        let revoked = broker.is_noted(Register::Revoked, id, Register::Revoked.max_lifetime()).await;
        if !revoked.unwrap_or(false) {
            return false;
        }
        let sighting = Control::new(Arc::clone(broker)).find(&[id.to_owned()]).await;
        sighting.is_ok_and(|sighting| sighting.running.is_empty())
    }
}

impl<T> AsyncResult<T> {
    /// Revokes this call: [`App::revoke`].
    ///
    /// # Errors
    /// As for [`App::revoke`].
    pub async fn revoke(&self) -> Result<()> {
        self.app().revoke(self.id()).await
    }

    /// Revokes this call, and stops it if it runs: [`App::terminate`].
    ///
    /// # Errors
    /// As for [`App::terminate`].
    pub async fn terminate(&self) -> Result<()> {
        self.app().terminate(self.id()).await
    }
}
