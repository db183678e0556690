//! Opens the file, checks that it is ours, and creates or migrates its tables.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::busy::wait_for_lock;
use super::failure::{describe, is_busy};
use crate::error::{Error, Result};

/// `mqwk`: identifies our files.
const APPLICATION_ID: i32 = 0x6d71_776b;

/// One script per version: the first `n` have been applied to a file of version `n`.
///
/// The body of a message is written only once. Its position is kept in the small rows of `ready`, `delayed` and `claimed`,
/// which change during its life; an UPDATE of `message` would copy the whole row including the body.
/// `rank` is 255 minus the priority, so that the key of `ready` is the order of delivery.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE message (
        id INTEGER PRIMARY KEY,
        exchange TEXT, routing_key TEXT,      -- NULL: published straight to the queue
        head TEXT,                            -- properties and headers
        expires_at INTEGER,
        body BLOB NOT NULL
    ) STRICT;
    CREATE TABLE ready (
        queue INTEGER NOT NULL, rank INTEGER NOT NULL, id INTEGER NOT NULL,
        redelivered INTEGER NOT NULL, crashes INTEGER NOT NULL,
        PRIMARY KEY (queue, rank, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE delayed (
        at INTEGER NOT NULL, id INTEGER NOT NULL, queue INTEGER NOT NULL, rank INTEGER NOT NULL,
        PRIMARY KEY (at, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE expiring (
        at INTEGER NOT NULL, id INTEGER NOT NULL, queue INTEGER NOT NULL, rank INTEGER NOT NULL,
        PRIMARY KEY (at, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE claimed (
        id INTEGER PRIMARY KEY,
        owner INTEGER NOT NULL, token INTEGER NOT NULL,
        queue INTEGER NOT NULL, rank INTEGER NOT NULL,
        redelivered INTEGER NOT NULL, crashes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE owner (
        id INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused: a dead owner's claims stay its own
        uuid TEXT NOT NULL, pid INTEGER NOT NULL,
        beat INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE consumer (
        owner INTEGER NOT NULL, id INTEGER NOT NULL, queue TEXT NOT NULL, name TEXT NOT NULL,
        PRIMARY KEY (owner, id, queue)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE queue (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        definition TEXT NOT NULL,
        owner INTEGER,                        -- of an exclusive queue
        expires INTEGER, used_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE exchange (name TEXT PRIMARY KEY, definition TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE binding (
        exchange TEXT NOT NULL, queue TEXT NOT NULL, routing_key TEXT NOT NULL,
        PRIMARY KEY (exchange, queue, routing_key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE topology (generation INTEGER NOT NULL) STRICT;
    INSERT INTO topology VALUES (1);
    CREATE TABLE result (
        seq INTEGER PRIMARY KEY AUTOINCREMENT, -- grows with every change, so that waiters read what is new
        task_id TEXT NOT NULL UNIQUE,
        is_final INTEGER NOT NULL, expires_at INTEGER, record BLOB NOT NULL
    ) STRICT;
    CREATE INDEX result_by_expiry ON result (expires_at) WHERE expires_at IS NOT NULL;
",
    // When the message became ready for delivery: shows how long a queue has not been consumed.
    "ALTER TABLE message ADD COLUMN since INTEGER;",
    // Rows that expire: notes on tasks (`seq` grows, so that readers can continue where they stopped), and locks of unique tasks.
    "
    CREATE TABLE note (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        register TEXT NOT NULL, id TEXT NOT NULL, until INTEGER NOT NULL,
        UNIQUE (register, id)
    ) STRICT;
    CREATE INDEX note_by_end ON note (until);
    CREATE TABLE lock (key TEXT PRIMARY KEY, holder TEXT NOT NULL, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE INDEX lock_by_end ON lock (until);
",
    // True if a revoked task must also be stopped while it runs.
    "ALTER TABLE note ADD COLUMN by_force INTEGER NOT NULL DEFAULT 0;",
    // A message is also delayed after its worker has lost it.
    "
    ALTER TABLE delayed ADD COLUMN redelivered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE delayed ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
",
    // Shared by schedulers: their log, and the fence behind which the leader publishes.
    "
    CREATE TABLE schedule_log (seq INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL) STRICT;
    CREATE TABLE schedule_fence (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL) STRICT;
",
    // Every transaction looks for expiring queues without consumers: with many workers, table scans took most of the time.
    "CREATE INDEX consumer_by_queue ON consumer (queue);",
];

/// Opens the file, creating or migrating it if necessary. Waits for locks until `deadline`.
pub(super) fn open(path: &Path, deadline: Instant) -> Result<Connection> {
    loop {
        match attempt(path) {
            Err(Problem::Sqlite(cause)) if is_busy(&cause) && Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(Problem::Sqlite(cause)) if is_of_another_log(path, &cause) => {
                let shown = path.display();
                return Err(Error::storage(format!(
                    "cannot open the database: `{shown}` does not go with `{shown}-wal`: was it moved, deleted or \
                     replaced while programs had it open? Stop them, and put it back, or delete `{shown}-wal` and \
                     `{shown}-shm`"
                ))
                .with_source(cause));
            }
            Err(Problem::Sqlite(cause)) => return Err(describe(path, "open the database", cause)),
            Err(Problem::Ours(error)) => return Err(error),
            Ok(connection) => return Ok(connection),
        }
    }
}

/// True if the file cannot be read together with the write-ahead log next to it.
fn is_of_another_log(path: &Path, cause: &rusqlite::Error) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    matches!(cause.sqlite_error_code(), Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt))
        && Path::new(&log).exists()
}

/// Checks that the file exists and was created by this crate.
#[cfg(feature = "cli")]
pub(super) fn must_exist(path: &Path) -> Result<()> {
    let missing = |what: &str| {
        Error::connection(format!(
            "{what} `{}`: the first worker or `.delay()` creates it. Another one is chosen with --broker sqlite:PATH, \
             MQ_BROKER_URL or `broker_url` in mq-worker.toml; `mq-worker config` shows the setting in effect",
            path.display()
        ))
    };
    if !path.exists() {
        return Err(missing("there is no database"));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let describe = |cause| describe(path, "open the database", cause);
    let mut connection = Connection::open_with_flags(path, flags).map_err(describe)?;
    connection.busy_handler(Some(wait_for_lock)).map_err(describe)?;
    let snapshot = connection.unchecked_transaction().map_err(describe)?;
    match check(&snapshot, path) {
        Ok(0) => Err(missing("there is no queue yet in the empty file")),
        // The actual open reports errors of SQLite, and waits for locks.
        Ok(_) | Err(Problem::Sqlite(_)) => Ok(()),
        Err(Problem::Ours(error)) => Err(error),
    }
}

enum Problem {
    Sqlite(rusqlite::Error),
    Ours(Error),
}

impl From<rusqlite::Error> for Problem {
    fn from(cause: rusqlite::Error) -> Self {
        Problem::Sqlite(cause)
    }
}

fn attempt(path: &Path) -> Result<Connection, Problem> {
    // Without SQLITE_OPEN_URI, so that a path is taken literally.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let shown = path.display();
    // SQLite silently opens a file read-only if it may not write to it.
    if connection.is_readonly("main")? {
        return Err(Problem::Ours(Error::storage(format!(
            "cannot open `{shown}`: it is read-only; the file and its directory must be writable"
        ))));
    }
    connection.busy_handler(Some(wait_for_lock))?;
    let snapshot = connection.unchecked_transaction()?;
    check(&snapshot, path)?;
    drop(snapshot);
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Problem::Ours(Error::storage(format!(
            "cannot open `{shown}`: its file system has no shared memory for SQLite's write-ahead log (journal \
             mode `{mode}`); use a local disk"
        ))));
    }
    migrate(&mut connection, path)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // 16 MiB of log between checkpoints, since each makes the writers wait. The log file keeps its size afterwards:
    // the sync of a growing log also has to write its length, and takes twice as long.
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Otherwise SQLite plans a statement again for each new value of a `LIMIT ?`.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Rejects a file that is not ours, before anything is written to it. Must run in a transaction: otherwise it might see the
/// tables of a file that another process is creating, but not yet its application id.
fn check(connection: &Connection, path: &Path) -> Result<i32, Problem> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let shown = path.display();
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(Problem::Ours(Error::storage(format!(
            "cannot open `{shown}`: it is the database of another program; give mq-worker a file of its own"
        ))));
    }
    if usize::try_from(version).is_ok_and(|version| version > MIGRATIONS.len()) {
        return Err(Problem::Ours(Error::storage(format!(
            "cannot open `{shown}`: a newer mq-worker wrote it (schema {version}, this one knows up to {})",
            MIGRATIONS.len()
        ))));
    }
    Ok(version)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), Problem> {
    let snapshot = connection.unchecked_transaction()?;
    let seen = check(&snapshot, path)?;
    drop(snapshot);
    if usize::try_from(seen) == Ok(MIGRATIONS.len()) {
        return Ok(());
    }
    // Several processes may start at once: check again under the lock.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version = usize::try_from(check(&transaction, path)?).unwrap_or(0);
    for script in &MIGRATIONS[version..] {
        transaction.execute_batch(script)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_others_are_just_making_is_ours() {
        for _ in 0..40 {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("queue.db");
            let deadline = Instant::now() + Duration::from_secs(60);
            thread::scope(|scope| {
                let opening: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| open(&path, deadline).map(drop))).collect();
                for opened in opening {
                    opened.join().expect("no panic").expect("it opens");
                }
            });
        }
    }
}
