//! The one connection that receives the results for all waiting callers of this process. It reconnects by itself.

use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::hub::{self, Change, Hub, PAUSE};
use super::{Awaited, ResultRecord};
use crate::connection::background;
use crate::error::{Error, ErrorKind, Result};
use crate::tracing;

/// A store that announces stored records.
pub(super) trait AnnouncingStore: Send + Sync + 'static {
    /// Fetches the record of a task.
    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>>;

    /// Connects, and passes on announcements until the connection ends. Runs on the library's own thread.
    fn serve<'a>(&'a self, hub: &'a Hub, changes: &'a mut Changes) -> BoxFuture<'a, Ended>;
}

/// Callers that start and stop waiting.
pub(super) type Changes = mpsc::UnboundedReceiver<Change>;

/// Why listening has ended.
pub(super) enum Ended {
    /// No connection could be opened.
    NotConnected(Error),
    /// The connection was lost.
    Lost(String),
    /// The server accepts the connection but never announces anything on it. Holds the reason, for the callers.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "made by the feature `postgres`"))]
    Silent(String),
}

/// Waits for the announcements of a store.
pub(super) struct Listening<S> {
    store: Arc<S>,
    hub: Arc<Hub>,
    /// The receiver for the listening task, taken by the first caller that waits.
    changes: Mutex<Option<Changes>>,
    /// Why nothing is announced, if that will not change by itself.
    silent: Arc<OnceLock<String>>,
    closed: CancellationToken,
    _closed_when_dropped: DropGuard,
}

impl<S: AnnouncingStore> Listening<S> {
    pub(super) fn new(store: Arc<S>) -> Self {
        let (hub, changes) = Hub::new();
        let closed = CancellationToken::new();
        let _closed_when_dropped = closed.clone().drop_guard();
        Self {
            store,
            hub,
            changes: Mutex::new(Some(changes)),
            silent: Arc::default(),
            closed,
            _closed_when_dropped,
        }
    }

    /// Returns the store, unless this handle was closed.
    pub(super) fn store(&self) -> Result<&Arc<S>> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(&self.store) }
    }

    /// Waits for a record.
    pub(super) async fn wait(&self, id: &str, awaited: Awaited) -> Result<ResultRecord> {
        tokio::select! {
            record = self.wait_for(id, awaited) => record,
            () = self.closed.cancelled() => Err(closed()),
        }
    }

    /// Ends all waits.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    async fn wait_for(&self, id: &str, awaited: Awaited) -> Result<ResultRecord> {
        // At first, fail at once if the server is unreachable or refuses the login. Later on, wait until it is back.
        if let Some(record) = self.store()?.fetch(id).await?
            && awaited.is_met_by(&record)
        {
            return Ok(record);
        }
        self.listen().await?;
        hub::wait(self.hub.listen(id), awaited, || async {
            match self.silent.get() {
                None => self.store.fetch(id).await,
                Some(why) => Err(Error::unsupported(why.clone())),
            }
        })
        .await
    }

    /// Starts the listening task on the first call.
    async fn listen(&self) -> Result<()> {
        if let Some(changes) = self.changes.lock().await.take() {
            let (store, hub, silent) =
                (Arc::clone(&self.store), Arc::clone(&self.hub), Arc::clone(&self.silent));
            let closed = self.closed.clone();
            let work = async move { listen(&*store, &hub, changes, &silent).await };
            background::spawn(async move { closed.run_until_cancelled(work).await })?;
        }
        match self.silent.get() {
            None => Ok(()),
            Some(why) => Err(Error::unsupported(why.clone())),
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Gone, "the result backend was closed")
}

/// Listens, and reconnects after a pause, until it is cancelled.
async fn listen(store: &impl AnnouncingStore, hub: &Hub, mut changes: Changes, silent: &OnceLock<String>) {
    let (mut pause, longest) = PAUSE;
    loop {
        match store.serve(hub, &mut changes).await {
            Ended::NotConnected(error) => {
                tracing::warn!(error = format!("{error:#}"), again_in = ?pause, "cannot listen for results");
            }
            Ended::Lost(error) => {
                pause = PAUSE.0;
                tracing::warn!(error, "lost the connection that listens for results");
            }
            Ended::Silent(why) => {
                tracing::error!(why);
                let _ = silent.set(why);
                // Waiting callers get the error when they fetch.
                hub.listening(&hub.ids());
                while let Some(change) = changes.recv().await {
                    if let Change::Listen(id) = change {
                        hub.listening([&id]);
                    }
                }
                return;
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}
