//! Opens the file of a history: how it is recognized, and its tables.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use crate::connection::sqlite::failure::describe;
use crate::error::{Error, Result};

/// `mqwh`: distinguishes a history from the file of a broker and from those of other programs.
const APPLICATION_ID: i32 = 0x6d71_7768;
/// The application id of a broker's file, which has an error message of its own.
const BROKER_ID: i32 = 0x6d71_776b;

/// How long to wait for another process that writes.
const BUSY: Duration = Duration::from_secs(5);

/// One script per version; a file of version `n` has the first `n` applied.
///
/// `seq` is the time of the call's first event, in microseconds since 1970, made unique: the newest calls are at the end
/// of the table and of each index, so that lists and pages need no sorting, and old ones are deleted from its beginning.
/// Names are stored once, in `label`. Adding a column to `job` makes SQLite check the whole file, as for every STRICT table:
/// four minutes for 10 million calls. A separate table avoids that. All times are in microseconds since 1970.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE label (
        id INTEGER PRIMARY KEY,
        kind INTEGER NOT NULL, text TEXT NOT NULL,
        UNIQUE (kind, text)
    ) STRICT;
    CREATE TABLE job (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        state INTEGER NOT NULL, state_at INTEGER NOT NULL,
        name INTEGER, queue INTEGER, worker INTEGER,
        root TEXT, parent TEXT,
        retries INTEGER NOT NULL,
        eta INTEGER, expires INTEGER,
        sent_at INTEGER, received_at INTEGER, started_at INTEGER, finished_at INTEGER,
        args TEXT, kwargs TEXT, result TEXT,
        error TEXT, reason TEXT, traceback TEXT,
        fault INTEGER,                        -- the kind of the error
        attempts TEXT NOT NULL
    ) STRICT;
    CREATE INDEX job_by_name ON job (name);
    CREATE INDEX job_by_state ON job (state);
    CREATE INDEX job_by_queue ON job (queue);
    CREATE INDEX job_by_worker ON job (worker);
    CREATE INDEX job_by_root ON job (root) WHERE root IS NOT NULL;
    CREATE INDEX job_by_parent ON job (parent) WHERE parent IS NOT NULL;
    -- What a list of failures needs, without their rows.
    CREATE INDEX job_failed ON job (state, seq, name, fault, state_at) WHERE fault IS NOT NULL;
    -- Words of arguments and errors: the text itself is in `job`.
    CREATE VIRTUAL TABLE words USING fts5 (text, content = '', contentless_delete = 1, detail = full);
    CREATE TABLE tally (
        span INTEGER NOT NULL, at INTEGER NOT NULL,  -- seconds: an hour or a minute, and its beginning
        queue INTEGER NOT NULL, name INTEGER NOT NULL, what INTEGER NOT NULL,
        count INTEGER NOT NULL, run BLOB NOT NULL, wait BLOB NOT NULL,
        PRIMARY KEY (span, at, queue, name, what)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE worker (
        name TEXT PRIMARY KEY,
        first_seen_at INTEGER NOT NULL, seen_at INTEGER NOT NULL, is_online INTEGER NOT NULL,
        report TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    -- Whose queue of events this history reads, however often the file is moved.
    CREATE TABLE identity (id TEXT NOT NULL) STRICT;
    INSERT INTO identity VALUES (lower(hex(randomblob(6))));
    CREATE TABLE audit (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL, who TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL
    ) STRICT;
",
    "
    -- What a call last said about itself, as JSON.
    ALTER TABLE job ADD COLUMN reported TEXT;
",
];

/// Opens the file for writing, and creates or migrates it.
pub(super) fn open(path: &Path) -> Result<Connection> {
    if path.is_dir() {
        return Err(Error::config(format!("cannot open the history: `{}` is a directory", path.display())));
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        let (path, parent) = (path.display(), parent.display());
        return Err(Error::config(format!("cannot open the history `{path}`: no directory `{parent}`")));
    }
    let refused = |cause| describe(path, "open the history", cause);
    // Not SQLITE_OPEN_URI: a path is a path, whatever characters it has.
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(refused)?;
    db.busy_timeout(BUSY).map_err(refused)?;
    check(&db, path)?;
    prepare(&mut db, path)?;
    Ok(db)
}

/// Opens an existing file for reading.
pub(super) fn open_to_read(path: &Path) -> Result<Connection> {
    let refused = |cause| describe(path, "read the history", cause);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(refused)?;
    db.busy_timeout(BUSY).map_err(refused)?;
    db.pragma_update(None, "query_only", true).map_err(refused)?;
    db.pragma_update(None, "cache_size", -16_384).map_err(refused)?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Refuses a file that is not a history, before anything is written to it.
fn check(db: &Connection, path: &Path) -> Result<usize> {
    let shown = path.display();
    let refused = |cause| describe(path, "open the history", cause);
    let snapshot = db.unchecked_transaction().map_err(refused)?;
    let pragma = |name| snapshot.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(refused);
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let count = "SELECT count(*) FROM sqlite_schema";
    let tables: i64 = snapshot.query_row(count, [], |row| row.get(0)).map_err(refused)?;
    if application == BROKER_ID {
        return Err(Error::config(format!(
            "cannot open the history `{shown}`: it is the file of an SQLite broker; the history needs a file of its own"
        )));
    }
    if application != APPLICATION_ID && (application != 0 || version != 0 || tables != 0) {
        return Err(Error::config(format!(
            "cannot open the history `{shown}`: it is the database of another program; give the history a file of its own"
        )));
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(Error::storage(format!(
            "cannot open the history `{shown}`: a newer mq-worker wrote it (schema {version}, this one knows up to {}); \
             use that version, or another file",
            MIGRATIONS.len()
        )));
    }
    Ok(version)
}

fn prepare(db: &mut Connection, path: &Path) -> Result<()> {
    let refused = |cause| describe(path, "open the history", cause);
    let mode: String =
        db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(refused)?;
    if !mode.eq_ignore_ascii_case("wal") {
        let shown = path.display();
        return Err(Error::storage(format!(
            "cannot open the history `{shown}`: its file system has no shared memory for SQLite's write-ahead log \
             (journal mode `{mode}`); use a local disk"
        )));
    }
    // A power failure may lose the last seconds; a crash of the process loses nothing.
    db.pragma_update(None, "synchronous", "NORMAL").map_err(refused)?;
    db.pragma_update(None, "wal_autocheckpoint", 4000).map_err(refused)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20).map_err(refused)?;
    db.pragma_update(None, "cache_size", -65_536).map_err(refused)?;
    db.set_prepared_statement_cache_capacity(64);
    if check(db, path)? == MIGRATIONS.len() {
        return Ok(());
    }
    // Several processes may start at once: check the version again under the lock.
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(refused)?;
    let version: i32 =
        transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(refused)?;
    for script in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or_default()) {
        transaction.execute_batch(script).map_err(refused)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(refused)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32).map_err(refused)?;
    transaction.commit().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_a_history_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("history.db");
        drop(open(&path).expect("made"));
        drop(open(&path).expect("opened again"));
        let refused = |script: &str| {
            let path = directory.path().join("other.db");
            let _ = std::fs::remove_file(&path);
            Connection::open(&path).and_then(|db| db.execute_batch(script)).expect("made");
            open(&path).map(drop).expect_err(script).to_string()
        };
        let other = refused("CREATE TABLE t (x);");
        assert!(other.contains("the database of another program"), "{other}");
        let broker = refused(&format!("PRAGMA application_id = {BROKER_ID};"));
        assert!(broker.contains("the file of an SQLite broker"), "{broker}");
        let newer = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99;");
        let newer = refused(&newer);
        assert!(newer.contains("a newer mq-worker wrote it (schema 99"), "{newer}");
        let missing =
            open(&directory.path().join("no/history.db")).map(drop).expect_err("missing").to_string();
        assert!(missing.contains("no directory"), "{missing}");
        std::fs::write(
            directory.path().join("text.db"),
            "no database at all, but long enough to be one".repeat(50),
        )
        .expect("written");
        let text = open(&directory.path().join("text.db")).map(drop).expect_err("text").to_string();
        assert!(text.contains("is not an SQLite database"), "{text}");
    }
}
