//! How a command ends: its exit code, and what it prints.

use std::io::Write;
use std::process::ExitCode;

use super::stderr::Stderr;
pub(super) use crate::admin::failure::{FAILED, Failure, NO_TASKS, Outcome, TIME_IS_UP, UNAVAILABLE, USAGE};

/// Tells people how a command failed, and gives its exit code.
pub(super) fn report(failure: Failure) -> ExitCode {
    let (code, message) = failure.in_words();
    if !message.is_empty() {
        // An error about stderr itself could not be shown.
        let _ = Stderr.write_all(format!("error: {message}\n").as_bytes());
    }
    ExitCode::from(code)
}
