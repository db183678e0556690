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
    /// Where it came from, for people: Python's traceback; for a Rust error its location and its sources; for a panic its
    /// location and a backtrace.
    pub traceback: Option<String>,
    /// The arguments of Python's exception, if they are more than its text.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub arguments: Box<[serde_json::Value]>,
}

/// The language of an error's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Language {
    /// An error type of a Rust program.
    Rust,
    /// An exception of Python or of Celery. Rust workers use Celery's classes where there is one, such as
    /// `celery.exceptions.TaskRevokedError`.
    Python,
}

impl TaskFailure {
    /// The language of its class.
    pub fn language(&self) -> Language {
        let is_rust = self.module == "rust" || self.module.starts_with("rust.");
        if is_rust { Language::Rust } else { Language::Python }
    }

    /// The full name of its class, as the program that raised it would write it: `proj.errors.Refused`,
    /// `notifications::mail::MailError`.
    pub fn class(&self) -> String {
        let Self { kind, module, .. } = self;
        match (self.language(), module.strip_prefix("rust").unwrap_or(module)) {
            (_, "" | "builtins") => kind.clone(),
            (Language::Rust, path) => format!("{}::{kind}", path.trim_start_matches('.').replace('.', "::")),
            (Language::Python, module) => format!("{module}.{kind}"),
        }
    }
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
