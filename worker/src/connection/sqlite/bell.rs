//! Wakes other processes that use the same file: a process that commits news for others rings the bell, and processes that
//! wait for news watch it.
//!
//! The bell is the timestamp of the database file. Watching the write-ahead log would wake too early: its bytes are written
//! before the commit becomes visible, and the sync in between takes longer than waking up. The database file itself is
//! otherwise written by checkpoints alone.

use std::path::Path;
use std::sync::Weak;

use notify::event::ModifyKind;
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};

use super::Database;
use crate::tracing;

/// Wakes the other processes. A missed ring delays messages, but loses none: processes also poll.
///
/// Uses the path: closing a descriptor of the file would release all POSIX locks that this process has on it, SQLite's
/// included. The next process to close the database would then believe that it is the last user, and delete the log.
pub(super) fn ring(path: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // Set both times, which watchers see as a change of metadata. The modification time alone would count as one of data.
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = utimensat(CWD, path, &times, AtFlags::empty()) {
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
