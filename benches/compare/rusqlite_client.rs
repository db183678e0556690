//! Raw rusqlite: the minimum cost of a queue in SQLite.

use std::path::Path;

use crate::Failure;
use crate::measure::{Begun, Figures};
use crate::work::body;

/// Inserts in transactions of a hundred, each synced.
pub(crate) fn enqueue(at: &Path, tasks: u64) -> Result<Figures, Failure> {
    let mut raw = rusqlite::Connection::open(at)?;
    raw.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    raw.pragma_update(None, "synchronous", "FULL")?;
    raw.execute_batch(
        "CREATE TABLE IF NOT EXISTS message (id INTEGER PRIMARY KEY, head TEXT, body BLOB);
         CREATE TABLE IF NOT EXISTS ready (queue INTEGER, rank INTEGER, id INTEGER, PRIMARY KEY (queue, rank, id))
         WITHOUT ROWID;",
    )?;
    let begun = Begun::now();
    for first in (0..tasks).step_by(100) {
        let transaction = raw.transaction()?;
        for id in first..(first + 100).min(tasks) {
            let head =
                format!("{{\"j\":true,\"h\":{{\"task\":\"noop\",\"id\":\"{}\"}}}}", uuid::Uuid::now_v7());
            transaction
                .prepare_cached("INSERT INTO message (head, body) VALUES (?, ?)")?
                .execute(rusqlite::params![head, body(id)])?;
            let row = transaction.last_insert_rowid();
            transaction.prepare_cached("INSERT INTO ready VALUES (1, 255, ?)")?.execute([row])?;
        }
        transaction.commit()?;
    }
    begun.end(tasks)
}
