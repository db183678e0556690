//! The history: what became of every call, kept in its own SQLite file across restarts.
//!
//! Events go in through [`History::record`], in batches and in any order; the dashboard and the commands `jobs`,
//! `explain` and `top` read. One row is one call with all its attempts; counters by minute and hour outlive the calls.
//!
//! - `occurrence`, `state`, `attempts`, `job`: how an event changes what is known, without a database;
//! - `schema`, `labels`, `rows`, `tallies`, `record`: how that is stored;
//! - `search`, `rates`, `workers`, `failures`, `audit`: the queries;
//! - `reading`, `follow`: feeding it with the events of a broker;
//! - `retention`: deleting old entries;
//! - `literal`: turning arguments as Python prints them into JSON.

mod attempts;
mod audit;
mod failures;
mod follow;
mod histogram;
mod job;
mod labels;
mod literal;
mod occurrence;
mod rates;
mod reading;
mod record;
mod reported;
mod retention;
mod rows;
mod schema;
mod search;
mod state;
mod tallies;
#[cfg(test)]
mod tests;
mod workers;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use rusqlite::Connection;

pub use attempts::Attempt;
pub use audit::AuditEntry;
pub use failures::FailureGroup;
pub use follow::{QUEUE_PREFIX, follow};
pub use job::Job;
pub use literal::json_of_literal;
pub use occurrence::{Kind, Occurrence};
pub use rates::{Counts, GroupBy, Point, RateQuery, Total};
pub use record::Entry;
pub use reported::Reported;
pub use retention::Retention;
pub use search::{Cursor, Filter, Page};
pub use state::JobState;
pub use workers::{SeenWorker, WorkerDetails, WorkerReport};

use crate::connection::sqlite::failure::describe;
use crate::error::{Error, Result};
use labels::Labels;
use retention::{Clock, RowCount};

/// The most readers at a time; more wait.
const READERS: usize = 4;

/// An open history. Clones share it. Several processes may open one file; one of them should record.
///
/// No method blocks the async runtime: SQLite runs on the blocking pool.
///
/// ```
/// # async fn example() -> mq_worker::Result<()> {
/// use mq_worker::history::{Entry, Filter, History, Kind, Occurrence};
///
/// # let directory = tempfile::tempdir().expect("a directory");
/// # let path = directory.path().join("history.db");
/// let history = History::open(&path).await?;
/// let sent = Occurrence { name: Some("add".into()), ..Occurrence::new(Kind::Sent, "4f2a", chrono::Utc::now()) };
/// history.record(vec![Entry::Call(Box::new(sent))]).await?;
///
/// let page = history.jobs(Filter { name: Some("a*".into()), ..Filter::default() }, 50, None).await?;
/// assert_eq!(page.jobs[0].id, "4f2a");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().expect("a runtime").block_on(example()).expect("no error");
/// ```
#[derive(Clone)]
pub struct History {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    retention: Retention,
    writer: Mutex<Writer>,
    readers: Mutex<Vec<Reader>>,
    permits: tokio::sync::Semaphore,
    trouble: Mutex<Option<String>>,
}

struct Writer {
    db: Connection,
    labels: Labels,
    rows: RowCount,
    clock: Clock,
}

struct Reader {
    db: Connection,
    labels: Labels,
}

impl History {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// A directory that does not exist, a file that another program or a newer version wrote, a lock that another
    /// process holds for longer than 5 seconds, or a disk error.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, Retention::default()).await
    }

    /// Like [`open`](Self::open), with its own retention limits.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_with(path: impl AsRef<Path>, retention: Retention) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let opened = blocking(move || {
            let db = schema::open(&path)?;
            Ok((path, db))
        });
        let (path, db) = opened.await?;
        let writer =
            Writer { db, labels: Labels::default(), rows: RowCount::default(), clock: Clock::default() };
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                retention,
                writer: Mutex::new(writer),
                readers: Mutex::default(),
                permits: tokio::sync::Semaphore::new(READERS),
                trouble: Mutex::default(),
            }),
        })
    }

    /// Opens an existing file, for commands that must not create one by mistake.
    ///
    /// # Errors
    /// The file does not exist, or as [`open`](Self::open).
    pub async fn open_existing(path: impl AsRef<Path>, retention: Retention) -> Result<Self> {
        let path = path.as_ref();
        if !path.exists() {
            return Err(Error::config(format!(
                "there is no history `{}`: `mq-worker dashboard` makes it and fills it while it runs. Was another file \
                 meant? --history FILE, MQ_HISTORY or `history` in mq-worker.toml name it",
                path.display()
            )));
        }
        Self::open_with(path, retention).await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The queue on the broker that keeps events for this history while no process [follows](follow).
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn queue_name(&self) -> Result<String> {
        self.read("read the name of the history", |reader| {
            let id: String = reader.db.query_row("SELECT id FROM identity", [], |row| row.get(0))?;
            Ok(format!("{QUEUE_PREFIX}.{id}"))
        })
        .await
    }

    /// Why [following](follow) is failing, if it is.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Records a batch of events in one transaction. Events may come in any order and more than once.
    ///
    /// # Errors
    /// The file cannot be written; then none of the batch is recorded.
    pub async fn record(&self, entries: Vec<Entry>) -> Result<()> {
        self.write("record events", move |writer| {
            record::record(&writer.db, &mut writer.labels, &entries, Utc::now())
        })
        .await
    }

    /// Calls that match a filter, newest first: one page of at most `limit` (and at most 1000), starting after the cursor
    /// of the previous page.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn jobs(&self, filter: Filter, limit: usize, after: Option<Cursor>) -> Result<Page> {
        self.read("search the history", move |reader| {
            search::find(&reader.db, &mut reader.labels, &filter, limit, after)
        })
        .await
    }

    /// The call with this id, and its attempts.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn job(&self, id: &str) -> Result<Option<Job>> {
        let id = id.to_owned();
        self.read("look up a call", move |reader| {
            Ok(rows::by_id(&reader.db, &mut reader.labels, &id)?.map(|(_, job)| job))
        })
        .await
    }

    /// Points of a chart, oldest first: the counts for each step of a window up to now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn rates(&self, query: RateQuery) -> Result<Vec<Point>> {
        self.read("read the counters", move |reader| rates::points(&reader.db, &query, Utc::now())).await
    }

    /// The counts within a window up to now, by queue or by task.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn totals(&self, by: GroupBy, window: Duration) -> Result<Vec<Total>> {
        self.read("read the counters", move |reader| {
            rates::totals(&reader.db, &mut reader.labels, by, window, Utc::now())
        })
        .await
    }

    /// All workers that have sent events within the last day, by name.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn workers(&self) -> Result<Vec<SeenWorker>> {
        self.read("list the workers", |reader| workers::list(&reader.db, Utc::now())).await
    }

    /// The newest failures, grouped by task and kind of error, the largest group first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn failure_groups(&self) -> Result<Vec<FailureGroup>> {
        self.read("group the failures", |reader| failures::groups(&reader.db, &mut reader.labels)).await
    }

    /// Adds an entry to the audit trail.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn audit(&self, entry: AuditEntry) -> Result<()> {
        self.write("keep the audit trail", move |writer| audit::write(&writer.db, &entry)).await
    }

    /// The last entries of the audit trail, newest first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn audit_trail(&self, limit: u32) -> Result<Vec<AuditEntry>> {
        self.read("read the audit trail", move |reader| audit::newest(&reader.db, limit)).await
    }

    /// Deletes some of the calls beyond the retention limits. True if there are more: then call it again soon.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn forget(&self) -> Result<bool> {
        let retention = self.shared.retention;
        self.write("delete what is too old", move |writer| {
            retention::step(&writer.db, &retention, &mut writer.rows, &mut writer.clock, Utc::now())
        })
        .await
    }

    /// Runs a job in a transaction and commits it.
    async fn write<T: Send + 'static>(
        &self,
        act: &'static str,
        job: impl FnOnce(&mut Writer) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            let mut writer = shared.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let written = transact(&mut writer, job);
            if written.is_err() {
                writer.labels.clear();
            }
            written.map_err(|cause| describe(&shared.path, act, cause))
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        act: &'static str,
        job: impl FnOnce(&mut Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        let _permit = self.shared.permits.acquire().await;
        blocking(move || {
            let idle = shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut reader = match idle {
                Some(reader) => reader,
                None => Reader { db: schema::open_to_read(&shared.path)?, labels: Labels::default() },
            };
            let result = snapshot(&mut reader, job);
            shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            result.map_err(|cause| describe(&shared.path, act, cause))
        })
        .await
    }
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

fn transact<T>(
    writer: &mut Writer,
    job: impl FnOnce(&mut Writer) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    // A panic in an earlier job left its transaction open.
    if !writer.db.is_autocommit() {
        writer.db.execute_batch("ROLLBACK")?;
        writer.labels.clear();
    }
    writer.db.execute_batch("BEGIN IMMEDIATE")?;
    let result = job(writer);
    match &result {
        Ok(_) => writer.db.execute_batch("COMMIT").inspect_err(|_| {
            let _ = writer.db.execute_batch("ROLLBACK");
        })?,
        // The failure may already have ended the transaction.
        Err(_) if !writer.db.is_autocommit() => writer.db.execute_batch("ROLLBACK")?,
        Err(_) => {}
    }
    result
}

/// Runs a query in a transaction, so that all its statements see the same state of the file.
fn snapshot<T>(
    reader: &mut Reader,
    job: impl FnOnce(&mut Reader) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    reader.db.execute_batch("BEGIN")?;
    let result = job(reader);
    reader.db.execute_batch("ROLLBACK")?;
    result
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(job).await {
        Ok(result) => result,
        Err(error) => Err(Error::storage("cannot use the history: its thread has ended").with_source(error)),
    }
}
