//! How a command ends: its exit code, and what people are told.

use std::io::Write;
use std::process::ExitCode;

use super::stderr::Stderr;
use crate::error::Error;

/// What was asked for failed.
pub(super) const FAILED: u8 = 1;
/// The command line or the configuration has a mistake.
pub(super) const USAGE: u8 = 2;
/// There are no tasks to run (sysexits: no input).
pub(super) const NO_TASKS: u8 = 66;
/// The broker or the result backend cannot be reached (sysexits: unavailable).
pub(super) const UNAVAILABLE: u8 = 69;
/// The time is up, what stands in the way is expected to end, or a worker can go on only in a new process (sysexits:
/// temporary failure).
pub(super) const TIME_IS_UP: u8 = 75;
/// The broker refuses us (sysexits: no permission).
pub(super) const REFUSED: u8 = 77;

/// How a command ended.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// A command that did not do what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(super) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// An end about which everything has been said.
    pub(super) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The code, and what people would be told.
    pub(super) fn in_words(self) -> (u8, String) {
        (self.code, self.message)
    }

    /// Tells people and gives the code.
    pub(super) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            // An error about this has no way to people.
            let _ = Stderr.write_all(format!("error: {}\n", self.message).as_bytes());
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = if error.is_config() {
            USAGE
        } else if error.is_access_refused() {
            REFUSED
        } else if error.is_exhausted() {
            TIME_IS_UP
        } else if error.is_connection() || error.is_timeout() || error.is_unknown() {
            UNAVAILABLE
        } else {
            FAILED
        };
        let mut message = format!("{error:#}");
        if let Some(id) = error.unknown_id().filter(|id| !id.is_empty()) {
            message = format!("{message} (task id {id})");
        }
        Self::new(code, message)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            // Whoever read our output has seen enough: `mq-worker queues | head -1`.
            std::io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::failed(format!("cannot write: {error}")),
        }
    }
}
