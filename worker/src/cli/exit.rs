//! How a command ends: its exit code, and what it prints.

use std::io::Write;
use std::process::ExitCode;

use super::stderr::Stderr;
pub(super) use crate::admin::failure::{FAILED, Failure, NO_TASKS, Outcome, TIME_IS_UP, UNAVAILABLE, USAGE};

/// Prints why a command failed and returns its exit code.
pub(super) fn report(failure: Failure) -> ExitCode {
    let (code, message) = failure.into_parts();
    if !message.is_empty() {
        // A failure of stderr itself cannot be reported.
        let _ = Stderr.write_all(format!("error: {message}\n").as_bytes());
    }
    ExitCode::from(code)
}
