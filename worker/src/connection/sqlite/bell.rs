//! Wakes other processes that use the same file: a process that commits news rings the bell, and those that wait for news
//! watch it.
//!
//! The bell is the modification time of the database file. Watching the write-ahead log would wake too early: its bytes are
//! written before the commit becomes visible, and the sync in between takes longer than waking up. The database file
//! itself is only written by checkpoints, so watching it is quiet. Setting the time by path opens no second descriptor
//! (closing one would drop SQLite's POSIX locks on the file).

use std::path::Path;
use std::sync::Weak;

use filetime::FileTime;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

use super::Database;
use crate::tracing;

/// Wakes the other processes. A missed ring delays messages, but loses none: processes also poll.
pub(super) fn ring(path: &Path) {
    if let Err(error) = filetime::set_file_mtime(path, FileTime::now()) {
        tracing::debug!(%error, path = %path.display(), "cannot wake other processes");
    }
}

/// Watches the bell until the watcher is dropped.
pub(super) fn listen(path: &Path, database: Weak<Database>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let is_news = event.as_ref().map_or(true, |event| {
            // A checkpoint looks the same, but is rare.
            event.need_rescan() || event.kind.is_modify()
        });
        if is_news && let Some(database) = database.upgrade() {
            database.notice();
        }
    })?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
