//! The audit trail: who did what, to what, and when.

use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;

use super::occurrence::cut;
use super::rows::{from_micros, micros};

/// The longest part of an entry, in bytes.
const LONGEST: usize = 1024;

/// One action of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditEntry {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The user.
    pub who: String,
    /// The action, such as `purge`.
    pub action: String,
    /// What it was done to, such as the name of a queue.
    pub subject: String,
}

pub(super) fn write(db: &Connection, entry: &AuditEntry) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO audit (at, who, action, subject) VALUES (?1, ?2, ?3, ?4)")?.execute((
        micros(entry.at),
        cut(&entry.who, LONGEST),
        cut(&entry.action, LONGEST),
        cut(&entry.subject, LONGEST),
    ))?;
    Ok(())
}

/// The last entries, newest first.
pub(super) fn newest(db: &Connection, limit: u32) -> rusqlite::Result<Vec<AuditEntry>> {
    let mut select =
        db.prepare_cached("SELECT at, who, action, subject FROM audit ORDER BY seq DESC LIMIT ?1")?;
    let entries = select.query_map([limit], |row| {
        Ok(AuditEntry {
            at: from_micros(row.get(0)?),
            who: row.get(1)?,
            action: row.get(2)?,
            subject: row.get(3)?,
        })
    })?;
    entries.collect()
}
