//! Results in a table of PostgreSQL, announced with `NOTIFY`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Mutex, mpsc};
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::hub::{self, Change, Hub, PAUSE};
use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::postgres::Postgres;
use crate::connection::{BrokerUrl, background};
use crate::error::{Error, Result};
use crate::tracing;

/// On which changes are announced; the payload is the task's id.
const CHANNEL: &str = "mq_worker_result";
/// A connection that hears nothing for so long is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(15);
/// How often a process that stores results deletes what has expired, and how many rows at a time.
const SWEEP: (Duration, i64) = (Duration::from_secs(30), 5000);

/// Stores a record and announces it, unless there is a final one.
const STORE: &str = "
    WITH stored AS (
        INSERT INTO mq_worker_result AS known (task_id, is_final, record, expires_at)
        VALUES ($1, $2, $3, now() + $4 * interval '1 second')
        ON CONFLICT (task_id) DO UPDATE SET
            is_final = excluded.is_final, record = excluded.record, stored_at = now(), expires_at = excluded.expires_at
        WHERE NOT known.is_final OR known.expires_at <= now()
        RETURNING task_id
    )
    SELECT pg_notify('mq_worker_result', task_id) FROM stored";

const FETCH: &str =
    "SELECT record FROM mq_worker_result WHERE task_id = $1 AND (expires_at IS NULL OR expires_at > now())";

/// Rows that somebody else deletes at this moment are left to them.
const DELETE_EXPIRED: &str = "
    DELETE FROM mq_worker_result WHERE task_id IN (
        SELECT task_id FROM mq_worker_result WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
    )";

/// A table of a database.
pub(super) struct PostgresBackend {
    postgres: Arc<Postgres>,
    expires: Duration,
    hub: Arc<Hub>,
    /// What the task that listens begins with; the first caller that waits takes it.
    changes: Mutex<Option<mpsc::UnboundedReceiver<Change>>>,
    /// Why there is nothing to hear, where that will not change by itself.
    deaf: Arc<OnceLock<String>>,
    swept: std::sync::Mutex<Instant>,
    closed: CancellationToken,
}

impl PostgresBackend {
    /// The results in the database that `url` names. Nothing is sent yet.
    ///
    /// # Errors
    /// An address with a mistake, or a file for TLS that cannot be read.
    pub(super) fn open(url: &BrokerUrl, options: &BackendOptions) -> Result<Self> {
        let (hub, changes) = Hub::new();
        Ok(Self {
            postgres: Arc::new(Postgres::open(url, &options.connect)?),
            expires: options.expires,
            hub,
            changes: Mutex::new(Some(changes)),
            deaf: Arc::default(),
            swept: std::sync::Mutex::new(Instant::now()),
            closed: CancellationToken::new(),
        })
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.is_cancelled() { Err(closed()) } else { Ok(()) }
    }

    /// Starts the task that listens, with the first caller that waits.
    async fn listen(&self) -> Result<()> {
        if let Some(changes) = self.changes.lock().await.take() {
            let (postgres, hub, deaf) =
                (Arc::clone(&self.postgres), Arc::clone(&self.hub), Arc::clone(&self.deaf));
            let listening = Listening { postgres, hub, changes, deaf };
            let closed = self.closed.clone();
            background::spawn(async move { closed.run_until_cancelled(listening.work()).await })?;
        }
        match self.deaf.get() {
            None => Ok(()),
            Some(why) => Err(Error::unsupported(why.clone())),
        }
    }

    async fn wait_for(&self, id: &str, awaited: Awaited) -> Result<ResultRecord> {
        // A server that cannot be reached, or refuses us, is an error at once; later on, it is waited for.
        if let Some(record) = self.fetch(id).await?
            && awaited.is_met_by(&record)
        {
            return Ok(record);
        }
        self.listen().await?;
        hub::wait(self.hub.listen(id), awaited, || async {
            match self.deaf.get() {
                None => self.fetch(id).await,
                Some(why) => Err(Error::unsupported(why.clone())),
            }
        })
        .await
    }

    /// Deletes what has expired, now and then.
    fn sweep(&self) {
        let (period, most) = SWEEP;
        let is_due = {
            let mut swept = self.swept.lock().expect("never poisoned: nothing panics under it");
            let is_due = swept.elapsed() >= period.min(self.expires);
            if is_due {
                *swept = Instant::now();
            }
            is_due
        };
        if is_due {
            let postgres = Arc::clone(&self.postgres);
            let sweep = async move {
                let delete = move |client: deadpool_postgres::Object| {
                    async move { client.execute_typed(DELETE_EXPIRED, &[(&most, Type::INT8)]).await }.boxed()
                };
                if let Err(error) = postgres.ask("delete expired results", delete).await {
                    tracing::debug!(error = format!("{error:#}"), "expired results stay for now");
                }
            };
            let _ = background::spawn(sweep);
        }
    }
}

fn closed() -> Error {
    Error::connection("the result backend was closed")
}

impl ResultBackend for PostgresBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.check_open().map(|()| None) }.boxed()
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(&'a self, record: &'a ResultRecord, _to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.check_open()?;
            let (id, json, is_final) = (record.task_id.clone(), record.to_json(), record.state.is_ready());
            let expires = Some(self.expires).filter(|expires| !expires.is_zero()).map(|e| e.as_secs_f64());
            let store = move |client: deadpool_postgres::Object| {
                async move {
                    let values: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 4] = [
                        (&id, Type::TEXT),
                        (&is_final, Type::BOOL),
                        (&json, Type::BYTEA),
                        (&expires, Type::FLOAT8),
                    ];
                    client.query_typed(STORE, &values).await.map(drop)
                }
                .boxed()
            };
            self.postgres.ask("store a result", store).await?;
            self.sweep();
            Ok(())
        }
        .boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
            self.check_open()?;
            let id = id.to_owned();
            let fetch = move |client: deadpool_postgres::Object| {
                async move {
                    let rows = client.query_typed(FETCH, &[(&id, Type::TEXT)]).await?;
                    rows.first().map(|row| row.try_get::<_, Vec<u8>>(0)).transpose()
                }
                .boxed()
            };
            let record = self.postgres.ask("fetch a result", fetch).await?;
            record.as_deref().map(ResultRecord::from_json).transpose()
        }
        .boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        async move {
            tokio::select! {
                record = self.wait_for(id, awaited) => record,
                () = self.closed.cancelled() => Err(closed()),
            }
        }
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            self.check_open()?;
            let id = id.to_owned();
            let delete = move |client: deadpool_postgres::Object| {
                async move {
                    let delete = "DELETE FROM mq_worker_result WHERE task_id = $1";
                    client.execute_typed(delete, &[(&id, Type::TEXT)]).await.map(drop)
                }
                .boxed()
            };
            self.postgres.ask("delete a result", delete).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // What was stored is stored; the connections end with the last handle.
        self.closed.cancel();
        async {}.boxed()
    }
}

impl Drop for PostgresBackend {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// The one connection that receives results, for all that wait.
struct Listening {
    postgres: Arc<Postgres>,
    hub: Arc<Hub>,
    changes: mpsc::UnboundedReceiver<Change>,
    deaf: Arc<OnceLock<String>>,
}

impl Listening {
    /// Listens for ever, through every reconnect.
    async fn work(mut self) {
        let (mut pause, longest) = PAUSE;
        loop {
            match self.postgres.listen(CHANNEL).await {
                Ok((client, mut heard)) => {
                    pause = PAUSE.0;
                    if !self.hears_itself(&client, &mut heard).await {
                        return self.give_up().await;
                    }
                    self.serve(&client, &mut heard).await;
                    tracing::warn!("lost the connection that listens for results");
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), again_in = ?pause, "cannot listen for results");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// A pooler in transaction mode takes `LISTEN` and passes nothing on.
    async fn hears_itself(
        &self,
        client: &tokio_postgres::Client,
        heard: &mut mpsc::UnboundedReceiver<String>,
    ) -> bool {
        // No id of a task begins with a space.
        let probe = format!(" {}", uuid::Uuid::new_v4());
        if client.batch_execute(&format!("NOTIFY {CHANNEL}, '{probe}'")).await.is_err() {
            return true;
        }
        let hears = async {
            while let Some(payload) = heard.recv().await {
                if payload == probe {
                    return true;
                }
            }
            // Lost, which is another matter.
            true
        };
        tokio::time::timeout(self.postgres.timeout(), hears).await.unwrap_or(false)
    }

    async fn give_up(mut self) {
        let why = format!(
            "cannot wait for results: {} takes LISTEN and passes no notification on, as a pooler in transaction mode; name \
             the server itself, or a pool in session mode, where results are awaited (storing and fetching work)",
            self.postgres.shown()
        );
        tracing::error!(why);
        let _ = self.deaf.set(why);
        // Waiting callers get the error when they fetch.
        self.hub.hears(&self.hub.ids());
        while let Some(change) = self.changes.recv().await {
            self.follow(change);
        }
    }

    async fn serve(&mut self, client: &tokio_postgres::Client, heard: &mut mpsc::UnboundedReceiver<String>) {
        self.hub.hears(&self.hub.ids());
        loop {
            tokio::select! {
                payload = heard.recv() => match payload {
                    Some(id) => self.hub.hears([&id]),
                    None => return,
                },
                Some(change) = self.changes.recv() => self.follow(change),
                () = tokio::time::sleep(QUIET) => {
                    let ping = tokio::time::timeout(self.postgres.timeout(), client.batch_execute(""));
                    if !matches!(ping.await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        }
    }

    fn follow(&self, change: Change) {
        if let Change::Listen(id) = change {
            self.hub.hears([&id]);
        }
    }
}
