//! Revoking calls.

use std::sync::Arc;

use serde_json::json;

use super::{App, AsyncResult};
use crate::broker::{Broker, Note, Register};
use crate::control::Control;
use crate::error::Result;

/// What happens to a revoked call that runs already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum IfRunning {
    Finish,
    Terminate,
}

impl App {
    /// Revokes a call, by its id. Where it waits, for its turn, its time or its retry, it will not be run: a worker that
    /// comes across it drops it, now or later, whether it runs by now or is started within the next seven days. Where
    /// it runs, its [context](crate::Context::cancelled) tells it; if it then fails, that is not tried again.
    ///
    /// Its state is `Revoked` as soon as a worker has come across it. What has ended stays as it is. Python's workers are
    /// told too, and remember it as long as they run.
    ///
    /// The lock of a unique call opens, unless a worker runs it by now: the next call need not wait until this one is due.
    ///
    /// # Errors
    /// When the broker does not take it. Workers that run were told if the error [is one of what the broker
    /// lacks](crate::Error::is_unsupported).
    pub async fn revoke(&self, id: &str) -> Result<()> {
        self.stop_call(id, IfRunning::Finish).await
    }

    /// Revokes a call, and stops it where it runs: an async task at its next await, an isolated one by killing its
    /// process. A plain function cannot be stopped: the call is revoked, and its place stays lost until it returns.
    ///
    /// # Errors
    /// As [`revoke`](Self::revoke).
    pub async fn terminate(&self, id: &str) -> Result<()> {
        self.stop_call(id, IfRunning::Terminate).await
    }

    async fn stop_call(&self, id: &str, if_running: IfRunning) -> Result<()> {
        let terminate = if_running == IfRunning::Terminate;
        let broker = self.broker().await?;
        // First: a worker that is just starting reads it, or is there to be told. So does one that cannot be told, which
        // must learn from the note alone whether to wait for the call to listen.
        let note = Note { by_force: terminate, ..Note::new(id, Register::Revoked.longest()) };
        let noted = broker.note(Register::Revoked, &note).await;
        if noted.as_ref().is_err_and(|error| error.is_connection() || error.is_timeout()) {
            return noted.map_err(|error| error.context(format_args!("cannot revoke task {id}")));
        }
        // In Celery's words; the last one is ours, and spares the workers to note it again.
        let arguments =
            json!({"task_id": [id], "terminate": terminate, "signal": "SIGTERM", "noted": noted.is_ok()});
        let arguments = arguments.as_object().cloned().unwrap_or_default();
        let told = Control::new(broker).tell("revoke", arguments).await;
        noted.and(told).map_err(|error| error.context(format_args!("cannot revoke task {id}")))
    }
}

impl App {
    /// True for a call that was revoked and that no worker runs: it will not be run, however long its message waits. An
    /// answer that does not come is none.
    pub(super) async fn is_given_up(&self, broker: &Arc<dyn Broker>, id: &str) -> bool {
        let revoked = broker.is_noted(Register::Revoked, id, Register::Revoked.longest()).await;
        if !revoked.unwrap_or(false) {
            return false;
        }
        let asked = json!({"ids": [id]}).as_object().cloned().unwrap_or_default();
        let answers = Control::new(Arc::clone(broker)).ask("query_task", asked).await;
        answers.is_ok_and(|answers| answers.iter().all(|answer| answer.value.get(id).is_none()))
    }
}

impl<T> AsyncResult<T> {
    /// Revokes this call: [`App::revoke`].
    ///
    /// # Errors
    /// As there.
    pub async fn revoke(&self) -> Result<()> {
        self.app().revoke(self.id()).await
    }

    /// Revokes this call, and stops it where it runs: [`App::terminate`].
    ///
    /// # Errors
    /// As there.
    pub async fn terminate(&self) -> Result<()> {
        self.app().terminate(self.id()).await
    }
}
