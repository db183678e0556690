//! The log of the schedulers, rows in one order, and the fence behind which the leader publishes.

use rusqlite::{OptionalExtension, params};

use super::engine::{Engine, Sql};
use super::job::{self, Job, Run};
use super::messages::Publishing;

/// Appends entries.
pub(crate) fn append(entries: Vec<String>) -> Job<(), impl Run<()>> {
    job::write("write the log of schedules", move |engine, _, _| {
        entries.iter().try_for_each(|entry| engine.append_to_log(entry)).map(Ok)
    })
}

/// Entries with their positions in the log.
type Entries = Vec<(u64, String)>;

/// Reads the entries after a position.
pub(crate) fn read(after: u64) -> Job<Entries, impl Run<Entries>> {
    job::read("read the log of schedules", move |engine, _| {
        engine
            .db
            .prepare_cached("SELECT seq, entry FROM schedule_log WHERE seq > ? ORDER BY seq")?
            .query_map([i64::try_from(after).unwrap_or(i64::MAX)], |row| {
                Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?))
            })?
            .collect()
    })
}

/// Opens a fence, which closes the previous one.
pub(crate) fn open_fence(name: String) -> Job<(), impl Run<()>> {
    job::write("become the leader of the schedulers", move |engine, _, _| {
        engine
            .db
            .prepare_cached("INSERT OR REPLACE INTO schedule_fence (one, name) VALUES (1, ?)")?
            .execute([&name])
            .map(|_| Ok(()))
    })
}

/// Publishes and appends in one transaction. Returns false if the fence is closed; then nothing was done.
pub(crate) fn publish(publishing: Publishing, fence: String, entry: String) -> Job<bool, impl Run<bool>> {
    job::write("publish", move |engine, now, changes| {
        let open: Option<String> = engine
            .db
            .prepare_cached("SELECT name FROM schedule_fence")?
            .query_row([], |row| row.get(0))
            .optional()?;
        if open.as_deref() != Some(&fence) {
            return Ok(Ok(false));
        }
        match engine.publish(&publishing, now, changes)? {
            Ok(()) => engine.append_to_log(&entry).map(|()| Ok(true)),
            Err(error) => Ok(Err(error)),
        }
    })
}

/// Deletes the entries before a position.
pub(crate) fn trim(before: u64) -> Job<(), impl Run<()>> {
    job::write("trim the log of schedules", move |engine, _, _| {
        engine
            .db
            .prepare_cached("DELETE FROM schedule_log WHERE seq < ?")?
            .execute([i64::try_from(before).unwrap_or(i64::MAX)])
            .map(|_| Ok(()))
    })
    .lazily()
}

impl Engine {
    fn append_to_log(&self, entry: &str) -> Sql<()> {
        self.db
            .prepare_cached("INSERT INTO schedule_log (entry) VALUES (?)")?
            .execute(params![entry])
            .map(drop)
    }
}
