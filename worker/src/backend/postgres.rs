//! Results in a table of PostgreSQL, announced with `NOTIFY`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::gathering::{BatchStore, BatchWriter, Written};
use super::hub::{Change, Hub};
use super::listening::{AnnouncingStore, Changes, Ended, Listening};
use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::postgres::Postgres;
use crate::connection::{BrokerUrl, background};
use crate::error::Result;
use crate::tracing;

/// The channel on which changes are announced. The payload is the task's id.
const CHANNEL: &str = "mq_worker_result";
/// The silence after which a connection is checked.
const QUIET: Duration = Duration::from_secs(15);
/// The time within which a notification usually arrives.
const PROMPTLY: Duration = Duration::from_millis(200);
/// How often a process that stores results deletes expired ones.
const SWEEP: Duration = Duration::from_secs(30);
/// The number of rows deleted at a time, small so that others need not wait, and the pause before the next batch.
const BATCH: (i64, Duration) = (2000, Duration::from_millis(50));

/// Stores records of different tasks and announces them, except where a final one exists. In the order of ids, so that two
/// programs cannot deadlock on each other's rows.
const STORE: &str = "
    WITH stored AS (
        INSERT INTO mq_worker_result AS known (task_id, is_final, record, expires_at)
        SELECT id, is_final, record, now() + $4 * interval '1 second'
        FROM unnest($1::text[], $2::bool[], $3::bytea[]) AS new (id, is_final, record)
        ORDER BY id
        ON CONFLICT (task_id) DO UPDATE SET
            is_final = excluded.is_final, record = excluded.record, stored_at = now(), expires_at = excluded.expires_at
        WHERE NOT known.is_final OR known.expires_at <= now()
        RETURNING task_id
    )
    SELECT pg_notify('mq_worker_result', task_id) FROM stored";

const FETCH: &str =
    "SELECT record FROM mq_worker_result WHERE task_id = $1 AND (expires_at IS NULL OR expires_at > now())";

/// Skips rows that another process is deleting at the moment.
const DELETE_EXPIRED: &str = "
    DELETE FROM mq_worker_result WHERE task_id IN (
        SELECT task_id FROM mq_worker_result WHERE expires_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED
    )";

/// Results in a table of a database.
pub(super) struct PostgresBackend {
    listening: Listening<Store>,
    gathering: BatchWriter<Store>,
}

struct Store {
    postgres: Arc<Postgres>,
    expires: Duration,
    /// When this process last deleted expired results. `None` while a deletion is running.
    swept: Arc<Mutex<Option<Instant>>>,
}

impl PostgresBackend {
    /// Opens the results in the database that `url` names. Nothing is sent yet.
    ///
    /// # Errors
    /// An invalid URL, or a TLS file that cannot be read.
    pub(super) fn open(url: &BrokerUrl, options: &BackendOptions) -> Result<Self> {
        let postgres = Arc::new(Postgres::open(url, &options.connect)?);
        let swept = Arc::new(Mutex::new(Some(Instant::now())));
        let store = Arc::new(Store { postgres, expires: options.expires, swept });
        Ok(Self { listening: Listening::new(Arc::clone(&store)), gathering: BatchWriter::new(store) })
    }
}

impl Store {
    /// Starts deleting all expired results, if that is due.
    fn sweep(&self) {
        {
            let mut swept = lock(&self.swept);
            let is_due =
                |swept: Instant| !self.expires.is_zero() && swept.elapsed() >= SWEEP.min(self.expires);
            if !swept.is_some_and(is_due) {
                return;
            }
            *swept = None;
        }
        let (postgres, swept) = (Arc::clone(&self.postgres), Arc::clone(&self.swept));
        let sweep = async move {
            if let Err(error) = delete_expired(&postgres).await {
                tracing::debug!(error = format!("{error:#}"), "cannot delete expired results");
            }
            *lock(&swept) = Some(Instant::now());
        };
        let _ = background::spawn(sweep);
    }
}

async fn delete_expired(postgres: &Arc<Postgres>) -> Result<()> {
    let (most, pause) = BATCH;
    loop {
        let delete = move |client: deadpool_postgres::Object| {
            async move { client.execute_typed(DELETE_EXPIRED, &[(&most, Type::INT8)]).await }.boxed()
        };
        if postgres.ask("delete expired results", delete).await? < most.unsigned_abs() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves the value consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResultBackend for PostgresBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move { self.listening.store().map(|_| None) }.boxed()
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(&'a self, record: &'a ResultRecord, _to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        async move {
            self.listening.store()?;
            self.gathering.store(record, None).await
        }
        .boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move { self.listening.store()?.fetch(id).await }.boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        self.listening.wait(id, awaited).boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        async move {
            let store = self.listening.store()?;
            let id = id.to_owned();
            let delete = move |client: deadpool_postgres::Object| {
                async move {
                    let delete = "DELETE FROM mq_worker_result WHERE task_id = $1";
                    client.execute_typed(delete, &[(&id, Type::TEXT)]).await.map(drop)
                }
                .boxed()
            };
            store.postgres.ask("delete a result", delete).await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        // Completed stores need no flush; the connections are closed with the last handle.
        self.listening.close();
        async {}.boxed()
    }
}

impl BatchStore for Store {
    const AT_ONCE: usize = 2;

    fn store_all(&self, records: Vec<Arc<Written>>) -> BoxFuture<'_, Result<()>> {
        async move {
            let expires = Some(self.expires).filter(|expires| !expires.is_zero()).map(|e| e.as_secs_f64());
            let write = move |client: deadpool_postgres::Object| {
                async move {
                    let ids: Vec<&str> = records.iter().map(|record| &*record.task_id).collect();
                    let are_final: Vec<bool> = records.iter().map(|record| record.is_final).collect();
                    let jsons: Vec<&[u8]> = records.iter().map(|record| &*record.json).collect();
                    let values: [(&(dyn ToSql + Sync), Type); 4] = [
                        (&ids, Type::TEXT_ARRAY),
                        (&are_final, Type::BOOL_ARRAY),
                        (&jsons, Type::BYTEA_ARRAY),
                        (&expires, Type::FLOAT8),
                    ];
                    client.query_typed(STORE, &values).await.map(drop)
                }
                .boxed()
            };
            self.postgres.ask("store a result", write).await?;
            self.sweep();
            Ok(())
        }
        .boxed()
    }
}

impl AnnouncingStore for Store {
    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
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

    fn serve<'a>(&'a self, hub: &'a Hub, changes: &'a mut Changes) -> BoxFuture<'a, Ended> {
        async move {
            let (client, mut notifications) = match self.postgres.listen(CHANNEL).await {
                Ok(listening) => listening,
                Err(error) => return Ended::NotConnected(error),
            };
            if !self.receives_notifications(&client, &mut notifications).await {
                return Ended::Silent(format!(
                    "cannot wait for results: {} takes LISTEN and passes no notification on, as a pooler in transaction \
                     mode; name the server itself, or a pool in session mode, where results are awaited (storing and \
                     fetching work)",
                    self.postgres.shown()
                ));
            }
            self.follow(hub, changes, &client, &mut notifications).await;
            Ended::Lost("it was closed, or does not answer".into())
        }
        .boxed()
    }
}

impl Store {
    /// Checks that notifications arrive. A pooler in transaction mode accepts `LISTEN` but passes none on, except by chance
    /// those from the same connection.
    async fn receives_notifications(
        &self,
        client: &Client,
        notifications: &mut mpsc::UnboundedReceiver<String>,
    ) -> bool {
        // No task id begins with a space.
        let probe = format!(" {}", uuid::Uuid::new_v4());
        let command = format!("NOTIFY {CHANNEL}, '{probe}'");
        let notify =
            |client: deadpool_postgres::Object| async move { client.batch_execute(&command).await }.boxed();
        if self.postgres.ask("listen for results", notify).await.is_err() {
            // Whether it receives notifications is checked below.
            return true;
        }
        let arrives = async {
            while let Some(payload) = notifications.recv().await {
                if payload == probe {
                    return true;
                }
            }
            // The connection is lost, which the caller notices.
            true
        };
        if tokio::time::timeout(PROMPTLY, arrives).await.is_ok() {
            return true;
        }
        // It may just be slow. A notification sent before a query arrives before the reply to it.
        for _ in 0..3 {
            if client.batch_execute("").await.is_err() {
                return true;
            }
            while let Ok(payload) = notifications.try_recv() {
                if payload == probe {
                    return true;
                }
            }
        }
        false
    }

    /// Passes on announcements until the connection is lost.
    async fn follow(
        &self,
        hub: &Hub,
        changes: &mut Changes,
        client: &Client,
        notifications: &mut mpsc::UnboundedReceiver<String>,
    ) {
        hub.listening(&hub.ids());
        loop {
            tokio::select! {
                payload = notifications.recv() => match payload {
                    Some(id) => hub.listening([&id]),
                    None => return,
                },
                Some(change) = changes.recv() => if let Change::Listen(id) = change {
                    hub.listening([&id]);
                },
                () = tokio::time::sleep(QUIET) => {
                    let ping = tokio::time::timeout(self.postgres.timeout(), client.batch_execute(""));
                    if !matches!(ping.await, Ok(Ok(()))) {
                        return;
                    }
                }
            }
        }
    }
}
