//! Translates errors of SQLite.

use std::path::Path;

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};

/// True if another process holds the lock, so that a retry may help.
pub(super) fn is_busy(cause: &rusqlite::Error) -> bool {
    matches!(cause.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Converts an error of SQLite for a caller that tried to `act`, such as `publish`.
pub(crate) fn describe(path: &Path, act: &str, cause: rusqlite::Error) -> Error {
    let path = path.display();
    let error = match cause.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Error::timeout(format!("cannot {act}: another process holds the lock on `{path}`"))
        }
        Some(ErrorCode::DiskFull) => Error::storage(format!("cannot {act}: the disk of `{path}` is full")),
        Some(ErrorCode::NotADatabase) => {
            Error::storage(format!("cannot {act}: `{path}` is not an SQLite database"))
        }
        Some(ErrorCode::DatabaseCorrupt) => Error::storage(format!("cannot {act}: `{path}` is damaged")),
        Some(ErrorCode::ReadOnly) => Error::storage(format!(
            "cannot {act}: `{path}` is read-only; the file and its directory must be writable"
        )),
        Some(ErrorCode::PermissionDenied) => {
            Error::storage(format!("cannot {act}: no permission for `{path}`"))
        }
        Some(ErrorCode::CannotOpen) => Error::storage(format!("cannot {act}: `{path}` cannot be opened")),
        Some(ErrorCode::TooBig) => {
            let what = format!("cannot {act}: the message is too large for SQLite");
            Error::new(ErrorKind::TooLarge, what)
        }
        Some(ErrorCode::SystemIoFailure) => {
            Error::storage(format!("cannot {act}: the disk of `{path}` cannot be read or written"))
        }
        _ => Error::storage(format!("cannot {act} in `{path}`")),
    };
    error.with_source(cause)
}
