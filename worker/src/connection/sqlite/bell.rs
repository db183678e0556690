//! How the processes on one file wake each other: who commits news rings, who waits for news listens.
//!
//! The bell is the modification time of the database file. The write-ahead log would ring too early: its bytes are
//! written before the commit can be seen, and the sync between the two takes longer than waking up. The database
//! file itself is written by checkpoints alone, so that its watch is quiet, and setting the time by path opens no
//! second descriptor (closing one would drop SQLite's POSIX locks on the file).

use std::path::Path;
use std::sync::Weak;

use filetime::FileTime;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Database;
use crate::tracing;

/// Wakes the other processes. A bell that does not ring costs time, not messages: they look once a second anyway.
pub(super) fn ring(path: &Path) {
    if let Err(error) = filetime::set_file_mtime(path, FileTime::now()) {
        tracing::debug!(%error, path = %path.display(), "cannot wake other processes");
    }
}

/// Listens until it is dropped.
pub(super) fn listen(path: &Path, database: Weak<Database>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_news = event.as_ref().map_or(true, |event| {
            // A checkpoint looks the same; it is rare.
            event.need_rescan() || event.kind.is_modify()
        });
        if is_news && let Some(database) = database.upgrade() {
            database.notice();
        }
    })?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
