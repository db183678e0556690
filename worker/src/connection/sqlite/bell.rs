//! Wakes other processes that use the same file: a process that commits news rings the bell, and those that wait for news
//! watch it.
//!
//! The bell is the modification time of the database file. Watching the write-ahead log would wake too early: its bytes are
//! written before the commit becomes visible, and the sync in between takes longer than waking up. The database file
//! itself is otherwise written by checkpoints alone. Setting the time by path opens no second descriptor
//! (closing one would drop SQLite's POSIX locks on the file).

use std::path::Path;
use std::sync::Weak;

use filetime::FileTime;
use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};

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
        let may_be_news = event.as_ref().map_or(true, is_ring);
        if may_be_news && let Some(database) = database.upgrade() {
            database.notice();
        }
    })?;
    watcher.watch(path, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// True unless the event is a checkpoint, which writes data. Setting the time changes metadata.
fn is_ring(event: &notify::Event) -> bool {
    let is_checkpoint = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
    event.need_rescan() || event.kind.is_modify() && !is_checkpoint
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_bell_rings_for_news_and_not_for_a_checkpoint() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (sender, events) = mpsc::channel();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that the test has ended.
            let _ = sender.send(is_ring(&event.expect("an event")));
        })
        .expect("a watcher");
        watcher.watch(file.path(), RecursiveMode::NonRecursive).expect("watched");
        let rings = || {
            let first = events.recv_timeout(Duration::from_secs(20)).expect("an event");
            first
                | std::iter::from_fn(|| events.recv_timeout(Duration::from_millis(200)).ok()).any(|ring| ring)
        };
        file.as_file().write_all(b"a page").expect("written");
        assert!(!rings(), "a page was written");
        ring(file.path());
        assert!(rings());
    }
}
