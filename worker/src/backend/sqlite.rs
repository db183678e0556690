//! Results in a table of an SQLite file, the broker's or another.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::BrokerUrl;
use crate::connection::sqlite::{self, Acked, Database, Storing, WaitFor, job};
use crate::error::{Error, ErrorKind, Result};

/// A result backend in a file. It shares the thread and the transactions of a broker on the same file.
pub(crate) struct SqliteBackend {
    database: Arc<Database>,
    timeout: Duration,
    /// `None` if results never expire.
    expires: Option<Duration>,
    acked: Acked,
    /// Ends the waits of this handle.
    closed: CancellationToken,
}

impl SqliteBackend {
    /// Opens the file that `url` names, or creates it, for results of tasks on `broker`.
    pub(crate) async fn open(
        broker: &BrokerUrl,
        url: &BrokerUrl,
        options: &BackendOptions,
    ) -> Result<Arc<dyn ResultBackend>> {
        let timeout = options.connect.timeout;
        let database = Database::open(url, timeout).await?;
        let expires = Some(options.expires).filter(|expires| !expires.is_zero());
        let is_one = broker.scheme() == "sqlite" && sqlite::is_same_file(broker, url);
        let acked = if is_one { Acked::Here } else { Acked::Elsewhere };
        Ok(Arc::new(Self { database, timeout, expires, acked, closed: CancellationToken::new() }))
    }

    /// Fails if this handle was closed, although others may still have the file open.
    fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    async fn news(&self, id: &str, after: WaitFor) -> Result<(i64, Vec<u8>)> {
        let (act, id) = ("wait for a result", id.to_owned());
        let begin = job::read(act, move |engine, now| engine.wait(&id, after, now));
        let coming = self.database.call_without_timeout(begin).await?;
        self.database.answer(act, coming).await
    }
}

impl ResultBackend for SqliteBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async { Ok(None) }.boxed()
    }

    /// Does nothing: the row stays until it expires, since others may ask for it.
    fn release(&self, _id: &str) {}

    fn store<'a>(
        &'a self,
        record: &'a ResultRecord,
        _reply_to: Option<&'a str>,
    ) -> BoxFuture<'a, Result<()>> {
        let storing = Storing {
            task_id: record.task_id.clone(),
            record: record.to_json(),
            is_final: record.state.is_ready(),
            expires: self.expires,
            acked: self.acked,
        };
        self.database.call(sqlite::store(storing), self.timeout).boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
            self.check_open()?;
            let id = id.to_owned();
            let fetch = job::read("fetch a result", move |engine, now| engine.fetch(&id, now));
            let record = self.database.call(fetch, self.timeout).await?;
            record.as_deref().map(ResultRecord::from_json).transpose()
        }
        .boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        async move {
            let waiting = async {
                let mut after = match awaited {
                    Awaited::Final => WaitFor::Final,
                    Awaited::Change(_) => WaitFor::After(0),
                };
                loop {
                    let (seq, record) = self.news(id, after).await?;
                    let record = ResultRecord::from_json(&record)?;
                    if awaited.is_met_by(&record) {
                        return Ok(record);
                    }
                    after = WaitFor::After(seq);
                }
            };
            tokio::select! {
                record = waiting => record,
                () = self.closed.cancelled() => Err(closed()),
            }
        }
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.check_open()?;
            self.database.call(sqlite::forget(id.to_owned()), self.timeout).await
        }
        .boxed()
    }

    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        self.database.loss()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Completed stores need no flush; the file is closed with the last handle.
        self.closed.cancel();
        async {}.boxed()
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Gone, "the result backend was closed")
}
