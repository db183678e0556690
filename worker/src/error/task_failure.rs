//! The failure of a task, as its caller receives it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The failure of a task, as its caller receives it.
///
/// On the wire it is Celery's exception object: `exc_type`, `exc_message`, `exc_module`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailure {
    /// The name of the error type, such as `MailError`.
    pub kind: String,
    /// The module of that type, such as `rust.notifications`.
    pub module: String,
    /// The error's text.
    pub message: String,
    /// A backtrace or a Python traceback, if available.
    pub traceback: Option<String>,
}

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.message.is_empty() {
            f.write_str(&self.kind)
        } else {
            write!(f, "{}: {}", self.kind, self.message)
        }
    }
}
