//! How a user's request fails: the message, and the exit code of a command.

use crate::error::Error;

/// The request failed.
pub(crate) const FAILED: u8 = 1;
/// The command line or the configuration has a mistake.
pub(crate) const USAGE: u8 = 2;
/// There are no tasks to run (sysexits: no input).
pub(crate) const NO_TASKS: u8 = 66;
/// The broker or the result backend cannot be reached (sysexits: unavailable).
pub(crate) const UNAVAILABLE: u8 = 69;
/// It timed out, it is blocked by something that is expected to end, or a worker can go on only in a new process
/// (sysexits: temporary failure).
pub(crate) const TIME_IS_UP: u8 = 75;
/// The broker refuses us (sysexits: no permission).
pub(crate) const REFUSED: u8 = 77;

/// How a command ended.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(FAILED, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, message)
    }

    /// An end that needs no message.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    /// The exit code and the message.
    pub(crate) fn into_parts(self) -> (u8, String) {
        (self.code, self.message)
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
            // The reader has closed our output, as in `mq-worker queues | head -1`: that is no failure.
            std::io::ErrorKind::BrokenPipe => Self::silent(0),
            _ => Self::failed(format!("cannot write: {error}")),
        }
    }
}
