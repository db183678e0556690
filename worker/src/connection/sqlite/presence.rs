//! Checks whether the open file is still the one at its path.
//!
//! SQLite keeps writing to a file that was deleted, moved or replaced, and reports success, although these writes will
//! never be read. So the path is checked before a batch, and again after its commit before any caller gets `Ok`.
//! A check takes a handful of `stat` calls.

use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use crate::error::{Error, ErrorKind};

/// The file that the path led to when it was opened.
pub(super) struct Presence {
    path: Arc<Path>,
    /// The write-ahead log and its index. If they are gone, processes that open the file later would create new ones, and
    /// not see the changes of this one.
    companions: Vec<(PathBuf, Option<Identity>)>,
    /// The path as configured: a link in it may be changed to lead elsewhere.
    named: (PathBuf, Option<Identity>),
}

/// Identifies a file independently of its name: device and inode.
type Identity = (u64, u64);

/// Why the open file is no longer usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// The file or its directory was deleted or moved.
    Gone,
    /// Another file is at its path.
    Replaced,
    /// Truncated to zero length.
    Emptied,
    /// The write-ahead log or its index was deleted or replaced.
    WithoutLog,
}

impl Presence {
    /// Remembers a file that was just opened and written to.
    pub(super) fn of(path: Arc<Path>, named: &Path) -> Self {
        let known = |path: PathBuf| {
            let identity = identity_at(&path);
            (path, identity)
        };
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            known(name.into())
        };
        let companions = vec![beside("-wal"), beside("-shm")];
        Self { path, companions, named: known(named.to_owned()) }
    }

    /// Compares the file at the path now with the open one.
    pub(super) fn check(&self, db: &Connection) -> Result<(), Absence> {
        let Ok(metadata) = std::fs::metadata(&self.path) else { return Err(Absence::Gone) };
        if has_moved(db) {
            return Err(Absence::Replaced);
        }
        if metadata.len() == 0 {
            return Err(Absence::Emptied);
        }
        let is_other =
            |(path, known): &(PathBuf, Option<Identity>)| known.is_some() && identity_at(path) != *known;
        if is_other(&self.named) {
            return Err(Absence::Replaced);
        }
        if self.companions.iter().any(is_other) { Err(Absence::WithoutLog) } else { Ok(()) }
    }
}

fn identity_at(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().as_ref().and_then(identity)
}

#[cfg(unix)]
fn has_moved(db: &Connection) -> bool {
    let mut has_moved = 0;
    let asked = db.file_control(None::<&str>, rusqlite::FileControl::HasMoved(&mut has_moved));
    asked.is_ok() && has_moved != 0
}

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    Some((metadata.dev(), metadata.ino()))
}

/// Always false: on these systems an open file can be neither deleted nor replaced.
#[cfg(not(unix))]
fn has_moved(_: &Connection) -> bool {
    false
}

#[cfg(not(unix))]
fn identity(_: &Metadata) -> Option<Identity> {
    None
}

impl Absence {
    /// The error for a caller whose request was not started.
    pub(super) fn error(self, path: &Path, act: &str) -> Error {
        let gone = format!("cannot {act}: `{}` {self}; {}", path.display(), self.remedy());
        Error::new(ErrorKind::Gone, gone)
    }

    /// The error for a caller whose request was committed, to a file that may or may not be found again.
    pub(super) fn error_after_commit(self, path: &Path, act: &str) -> Error {
        let kind = ErrorKind::Unknown { id: String::new() };
        Error::new(kind, format!("{:#}; its outcome is unknown", self.error(path, act)))
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Gone | Self::Replaced => {
                "put it back, or restart this program and all others that use it, to go on with the file at its path"
            }
            Self::Emptied | Self::WithoutLog => "restart this program and all others that use it",
        }
    }
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "was deleted or moved while it was open",
            Self::Replaced => "was replaced by another file while it was open",
            Self::Emptied => "was emptied while it was open",
            Self::WithoutLog => "lost its `-wal` or `-shm` file while it was open",
        })
    }
}
