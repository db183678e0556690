//! The errors that a task may return.

use std::any::type_name_of_val;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::TaskFailure;

/// The failure of a task.
///
/// With `?`, any error converts into [`Failed`](TaskError::Failed), which is retried. Return
/// [`reject`](TaskError::reject) if a retry cannot help, and [`retry_in`](TaskError::retry_in) if the task knows how
/// long to wait.
///
/// Like `anyhow::Error`, this type is not itself a [`std::error::Error`], so that every error converts into it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum TaskError {
    /// Retried, up to `max_retries` times.
    Failed(TaskFailure),
    /// Not retried: the message moves to the dead-letter queue.
    Rejected(TaskFailure),
    /// Retried after exactly this time; it spends a retry.
    Retry {
        /// How long to wait.
        after: Duration,
        /// The reason.
        failure: Box<TaskFailure>,
    },
}

impl TaskError {
    /// A failure with a text: retried.
    #[track_caller]
    pub fn failed(message: impl fmt::Display) -> Self {
        TaskError::Failed(TaskFailure::named("TaskError", "rust.mq_worker", message).here())
    }

    /// A permanent failure with a text: not retried.
    #[track_caller]
    pub fn reject(message: impl fmt::Display) -> Self {
        TaskError::Rejected(TaskFailure::named("Rejected", "rust.mq_worker", message).here())
    }

    /// Retries after exactly this time, instead of the task's backoff.
    #[track_caller]
    pub fn retry_in(after: Duration, reason: impl fmt::Display) -> Self {
        TaskError::Retry {
            after,
            failure: Box::new(TaskFailure::named("Retry", "rust.mq_worker", reason).here()),
        }
    }

    /// The same error, as a permanent one.
    #[must_use]
    pub fn permanent(self) -> Self {
        TaskError::Rejected(self.into_failure())
    }

    /// What went wrong.
    pub fn failure(&self) -> &TaskFailure {
        match self {
            TaskError::Failed(failure) | TaskError::Rejected(failure) => failure,
            TaskError::Retry { failure, .. } => failure,
        }
    }

    /// What went wrong, by value.
    pub fn into_failure(self) -> TaskFailure {
        match self {
            TaskError::Failed(failure) | TaskError::Rejected(failure) => failure,
            TaskError::Retry { failure, .. } => *failure,
        }
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for TaskError {
    // The location of the `?`.
    #[track_caller]
    fn from(error: E) -> Self {
        TaskError::Failed(TaskFailure::of(&error).here())
    }
}

/// Implement this for an error type that knows when a retry cannot help.
///
/// ```
/// use mq_worker::Permanence;
///
/// #[derive(Debug)]
/// enum MailError { Refused, Busy }
///
/// impl std::fmt::Display for MailError {
///     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") }
/// }
///
/// impl Permanence for MailError {
///     fn is_permanent(&self) -> bool { matches!(self, MailError::Refused) }
/// }
/// ```
pub trait Permanence: fmt::Display {
    /// True if the call must not be retried.
    fn is_permanent(&self) -> bool;

    /// How long to wait before the retry, if the error knows; otherwise the task's backoff applies.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl TaskFailure {
    pub(crate) fn named(kind: &str, module: &str, message: impl fmt::Display) -> Self {
        Self {
            kind: kind.into(),
            module: module.into(),
            message: message.to_string(),
            traceback: None,
            arguments: Box::default(),
        }
    }

    /// Names the failure after the error's type, with the texts of its causes.
    pub(crate) fn of<E: StdError>(error: &E) -> Self {
        let mut failure = Self::displayed(error);
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            let traceback = failure.traceback.take().unwrap_or_else(|| failure.to_string());
            failure.traceback = Some(traceback + "\ncaused by: " + &text);
            // Many errors already print their cause: do not repeat it.
            if !failure.message.contains(&text) {
                failure.message.push_str(": ");
                failure.message.push_str(&text);
            }
            source = cause.source();
        }
        failure
    }

    /// Adds the caller's location as the first line of the traceback.
    #[track_caller]
    fn here(mut self) -> Self {
        let place = std::panic::Location::caller();
        let rest = self.traceback.take().unwrap_or_else(|| self.to_string());
        self.traceback = Some(format!("at {}:{}\n{rest}", place.file(), place.line()));
        self
    }

    pub(crate) fn displayed<E: fmt::Display>(error: &E) -> Self {
        let (module, kind) = type_path(type_name_of_val(error));
        Self { kind, module, message: error.to_string(), traceback: None, arguments: Box::default() }
    }
}

/// `notifications::mail::MailError<X>` → (`rust.notifications.mail`, `MailError`). The prefix avoids Python's own
/// modules: Celery tries to import the module of an error.
fn type_path(full: &str) -> (String, String) {
    let plain = full.split('<').next().unwrap_or(full).trim_start_matches('&');
    match plain.rsplit_once("::") {
        Some((module, kind)) => (format!("rust.{}", module.replace("::", ".")), kind.to_owned()),
        None => ("rust".to_owned(), plain.to_owned()),
    }
}

/// How the macro converts any error type of a task into a [`TaskError`], by method resolution: the first of these
/// traits that the type implements is used, with one `&` fewer at each step.
pub mod convert {
    use super::{Permanence, StdError, TaskError, TaskFailure, fmt};

    /// Holds the error during method resolution.
    #[derive(Debug)]
    pub struct Caught<E>(pub E);

    /// A `TaskError` is not converted.
    pub trait ViaTaskError {
        /// Converts.
        fn into_task_error(self) -> TaskError;
    }

    impl ViaTaskError for &&&&Caught<TaskError> {
        fn into_task_error(self) -> TaskError {
            self.0.clone()
        }
    }

    /// An error that knows whether it is permanent.
    pub trait ViaPermanence {
        /// Converts.
        fn into_task_error(self) -> TaskError;
    }

    impl<E: Permanence> ViaPermanence for &&&Caught<E> {
        fn into_task_error(self) -> TaskError {
            let failure = TaskFailure::displayed(&self.0);
            match (self.0.is_permanent(), self.0.retry_after()) {
                (true, _) => TaskError::Rejected(failure),
                (false, Some(after)) => TaskError::Retry { after, failure: Box::new(failure) },
                (false, None) => TaskError::Failed(failure),
            }
        }
    }

    /// Any `std::error::Error`.
    pub trait ViaError {
        /// Converts.
        fn into_task_error(self) -> TaskError;
    }

    impl<E: StdError> ViaError for &&Caught<E> {
        fn into_task_error(self) -> TaskError {
            TaskError::Failed(TaskFailure::of(&self.0))
        }
    }

    /// Anything with `Display`: `String`, `anyhow::Error`, ….
    pub trait ViaDisplay {
        /// Converts.
        fn into_task_error(self) -> TaskError;
    }

    impl<E: fmt::Display> ViaDisplay for &Caught<E> {
        fn into_task_error(self) -> TaskError {
            let mut failure = TaskFailure::displayed(&self.0);
            // `{:#}` makes `anyhow` and similar errors print their causes too.
            failure.message = format!("{:#}", self.0);
            TaskError::Failed(failure)
        }
    }

    /// No type implements this: it exists for its message, which is shown for an error that fits none of the above.
    #[diagnostic::on_unimplemented(
        message = "`{Self}` cannot be the error of a task or a set-up function",
        label = "this error does not implement `Display`",
        note = "return an error that implements `std::error::Error` or `Display`, or `mq_worker::TaskError`"
    )]
    pub trait Reportable {}

    /// The last resort: it always matches, and never compiles.
    pub trait ViaNothing<E> {
        /// Reports the missing trait.
        fn into_task_error(self) -> TaskError
        where
            E: Reportable;
    }

    impl<E> ViaNothing<E> for Caught<E> {
        fn into_task_error(self) -> TaskError
        where
            E: Reportable,
        {
            unreachable!("no type is `Reportable`")
        }
    }
}

#[cfg(test)]
// The macro writes all four references, whatever the error: so do the tests.
#[allow(clippy::needless_borrow)]
mod tests {
    use super::convert::*;
    use super::*;

    #[derive(Debug)]
    struct Permanent;
    impl fmt::Display for Permanent {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("gone")
        }
    }
    impl StdError for Permanent {}
    impl Permanence for Permanent {
        fn is_permanent(&self) -> bool {
            true
        }
    }

    #[test]
    fn every_kind_of_error_finds_its_conversion() {
        let io = std::io::Error::other("disk");
        let converted = (&&&&Caught(io)).into_task_error();
        assert!(
            matches!(&converted, TaskError::Failed(f) if f.kind == "Error" && f.message == "disk"),
            "{converted:?}"
        );
        let converted = (&&&&Caught(String::from("text"))).into_task_error();
        assert!(matches!(&converted, TaskError::Failed(f) if f.message == "text"), "{converted:?}");
        let converted = (&&&&Caught(Permanent)).into_task_error();
        assert!(matches!(&converted, TaskError::Rejected(f) if f.kind == "Permanent"), "{converted:?}");
        let rejected = TaskError::reject("no");
        assert_eq!((&&&&Caught(rejected.clone())).into_task_error(), rejected);
    }

    #[test]
    fn modules_never_look_like_pythons() {
        assert_eq!(type_path("email::errors::Bad<u8>"), ("rust.email.errors".into(), "Bad".into()));
    }
}
