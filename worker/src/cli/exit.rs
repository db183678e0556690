//! How a command ends: its exit code, and what people are told.

use std::process::ExitCode;

use super::output;
pub(super) use crate::admin::failure::{FAILED, Failure, NO_TASKS, Outcome, TIME_IS_UP, UNAVAILABLE, USAGE};

/// Tells people how a command failed, and gives its exit code.
pub(super) fn report(failure: Failure) -> ExitCode {
    let (code, message) = failure.in_words();
    if !message.is_empty() {
        output::note(format_args!("error: {message}"));
    }
    ExitCode::from(code)
}
