//! [`Error`], one opaque type with `is_…` methods, and [`TaskFailure`], the stored failure of a task.

mod task_failure;
mod undecodable;

pub use task_failure::{Language, TaskFailure};
pub(crate) use undecodable::{Undecodable, without_values};

use std::error::Error as StdError;
use std::fmt;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn StdError + Send + Sync + 'static>;

/// Any failure of this library; the `is_…` methods tell the kinds apart.
///
/// The text says what was attempted and with which value. [`source`](StdError::source) returns the cause, and `{:#}`
/// prints both on one line.
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    /// The root cause, if the steps between it and the caller would only hide it.
    cause: Option<String>,
    source: Option<Source>,
}

/// The kinds of [`Error`], one for each case in which a caller may act differently.
#[derive(Clone, Debug, PartialEq)]
// A build without a real broker constructs fewer kinds.
#[cfg_attr(not(all(feature = "amqp", feature = "sqlite")), allow(dead_code))]
pub(crate) enum ErrorKind {
    /// The broker or result backend cannot be reached, or the connection was lost.
    Connection,
    /// The broker or result backend was closed by this program, or lost in a way that a restart may fix but waiting cannot.
    Gone,
    /// The broker refused a request: a permission is missing.
    AccessRefused,
    /// The broker refused the connection: user, password or virtual host.
    LoginRefused,
    /// A deadline passed.
    Timeout,
    /// The broker has no queue for the message: nothing was enqueued.
    Unroutable,
    /// The broker refused the message: nothing was enqueued.
    Rejected,
    /// It is not known whether the broker took the message; sending it again under this id is safe.
    Unknown { id: String },
    /// A message is larger than the limit: nothing was sent.
    TooLarge,
    /// The headers alone are larger than the broker accepts: nothing was sent. Fewer headers would help.
    HeadersTooLarge,
    /// A setting, a name or a combination of options is not valid.
    Config,
    /// Bytes do not follow the protocol, or a value cannot be encoded as JSON.
    Codec,
    /// An exchange, queue or binding could not be declared, found or deleted.
    Topology,
    /// The broker or backend answered with an error of its own (disk full, corrupt file, internal error).
    Storage,
    /// The awaited task failed.
    Failed(TaskFailure),
    /// The awaited task was revoked, or expired before it ran.
    Revoked,
    /// The broker or backend in use cannot do this.
    Unsupported,
    /// All slots of a worker are lost.
    Exhausted,
}

/// Whether a retry can help after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// The error is temporary: a broker that is unreachable or busy, a full disk.
    Passing,
    /// The broker refused. That may change soon, when a queue has room or is declared again; otherwise it is permanent.
    Refused,
    /// The request can never succeed.
    Permanent,
}

#[cfg_attr(not(all(feature = "amqp", feature = "sqlite")), allow(dead_code))]
impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), cause: None, source: None }))
    }

    /// An error that is shown in two parts, the outermost request and this cause, however many steps are between them.
    pub(crate) fn cause(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut error = Self::new(kind, message);
        error.0.cause = Some(error.0.message.clone());
        error
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, prefixed with `what`: `what: message`. For a [cause](Self::cause), it replaces an earlier prefix.
    pub(crate) fn context(mut self, what: impl fmt::Display) -> Self {
        let message = self.0.cause.as_ref().unwrap_or(&self.0.message);
        self.0.message = format!("{what}: {message}");
        self
    }

    /// A copy of the error for another caller that waits for the same operation, with its causes as text.
    #[cfg(any(feature = "amqp", feature = "postgres", feature = "redis"))]
    pub(crate) fn again(&self) -> Self {
        let Inner { kind, message, cause, .. } = &*self.0;
        let mut causes =
            std::iter::successors(self.source(), |&cause| cause.source()).map(ToString::to_string);
        let source =
            causes.next().map(|first| causes.fold(first, |all, next| format!("{all}: {next}")).into());
        Self(Box::new(Inner { kind: kind.clone(), message: message.clone(), cause: cause.clone(), source }))
    }

    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Connection, message)
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Timeout, message)
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Config, message)
    }

    pub(crate) fn codec(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Codec, message)
    }

    pub(crate) fn topology(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Topology, message)
    }

    pub(crate) fn storage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Storage, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    pub(crate) fn exhausted(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Exhausted, message)
    }

    /// The broker or result backend cannot be reached, or the connection was lost.
    pub fn is_connection(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Connection | ErrorKind::Gone)
    }

    /// True for an error that waiting in this process cannot resolve: the backend was closed, is gone, or refuses access.
    pub(crate) fn is_final_here(&self) -> bool {
        self.0.kind == ErrorKind::Gone
            || self.is_access_refused()
            || self.persistence() != Persistence::Passing
    }

    /// The broker is reachable but refused access: user, password, virtual host or permission.
    pub fn is_access_refused(&self) -> bool {
        matches!(self.0.kind, ErrorKind::AccessRefused | ErrorKind::LoginRefused)
    }

    /// A deadline passed.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == ErrorKind::Timeout
    }

    /// The broker has no queue for the message: nothing was enqueued.
    pub fn is_unroutable(&self) -> bool {
        self.0.kind == ErrorKind::Unroutable
    }

    /// The broker refused the message, for instance because the queue is full: nothing was enqueued.
    pub fn is_rejected(&self) -> bool {
        self.0.kind == ErrorKind::Rejected
    }

    /// It is unknown whether the broker took the message: see [`unknown_id`](Self::unknown_id).
    pub fn is_unknown(&self) -> bool {
        matches!(self.0.kind, ErrorKind::Unknown { .. })
    }

    /// The id under which the message may safely be sent again after an unknown outcome.
    pub fn unknown_id(&self) -> Option<&str> {
        match &self.0.kind {
            ErrorKind::Unknown { id } => Some(id),
            _ => None,
        }
    }

    /// The message is larger than the configured limit, or its headers are larger than the broker accepts in one frame:
    /// nothing was sent.
    pub fn is_too_large(&self) -> bool {
        matches!(self.0.kind, ErrorKind::TooLarge | ErrorKind::HeadersTooLarge)
    }

    /// True when only the headers are too large, so that a copy with fewer of them may be sent.
    pub(crate) fn is_headers_too_large(&self) -> bool {
        self.0.kind == ErrorKind::HeadersTooLarge
    }

    /// A setting, a name or a combination of options is not valid.
    pub fn is_config(&self) -> bool {
        self.0.kind == ErrorKind::Config
    }

    /// Bytes do not follow the protocol, or a value cannot be encoded as JSON.
    pub fn is_codec(&self) -> bool {
        self.0.kind == ErrorKind::Codec
    }

    /// An exchange, queue or binding could not be declared, found or deleted.
    pub fn is_topology(&self) -> bool {
        self.0.kind == ErrorKind::Topology
    }

    /// The broker or backend answered with an error of its own, such as a full disk or a corrupt file.
    pub fn is_storage(&self) -> bool {
        self.0.kind == ErrorKind::Storage
    }

    /// The awaited task was revoked, or expired before it ran.
    pub fn is_revoked(&self) -> bool {
        self.0.kind == ErrorKind::Revoked
    }

    /// The broker or result backend in use cannot do this.
    pub fn is_unsupported(&self) -> bool {
        self.0.kind == ErrorKind::Unsupported
    }

    /// Plain functions that do not return occupy every slot of the worker: only a new process can continue.
    pub fn is_exhausted(&self) -> bool {
        self.0.kind == ErrorKind::Exhausted
    }

    /// True if the same request can never succeed, however often it is repeated: too large, malformed, beyond a limit of
    /// the broker, or unsupported.
    ///
    /// Other errors may be temporary: an unreachable broker, a lock that another process holds, a full disk.
    pub fn is_permanent(&self) -> bool {
        self.persistence() == Persistence::Permanent
    }

    /// Whether a retry can help.
    pub(crate) fn persistence(&self) -> Persistence {
        match self.0.kind {
            ErrorKind::Connection
            | ErrorKind::Gone
            | ErrorKind::Timeout
            | ErrorKind::Unknown { .. }
            | ErrorKind::Storage
            | ErrorKind::LoginRefused => Persistence::Passing,
            ErrorKind::AccessRefused | ErrorKind::Unroutable | ErrorKind::Rejected | ErrorKind::Topology => {
                Persistence::Refused
            }
            ErrorKind::TooLarge
            | ErrorKind::HeadersTooLarge
            | ErrorKind::Config
            | ErrorKind::Codec
            | ErrorKind::Failed(_)
            | ErrorKind::Revoked
            | ErrorKind::Unsupported
            | ErrorKind::Exhausted => Persistence::Permanent,
        }
    }

    /// The failure of the awaited task, if this error is one.
    pub fn task_failure(&self) -> Option<&TaskFailure> {
        match &self.0.kind {
            ErrorKind::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if f.alternate() {
            let (mut said, mut source) = (self.0.message.clone(), self.source());
            while let Some(cause) = source {
                let text = cause.to_string();
                // Libraries often quote their cause.
                if !said.ends_with(&text) {
                    write!(f, ": {text}")?;
                }
                (said, source) = (text, cause.source());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, message, source, .. } = &*self.0;
        f.debug_struct("Error").field("kind", kind).field("message", message).field("source", source).finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "amqp", feature = "postgres", feature = "redis"))]
    #[test]
    fn a_copy_keeps_kind_and_causes() {
        let error = Error::storage("full").with_source(Error::timeout("a").with_source(Error::timeout("b")));
        let again = error.again();
        assert_eq!((format!("{again:#}"), again.is_storage()), ("full: a: b".to_owned(), true));
        assert_eq!(format!("{:#}", Error::codec("alone").again()), "alone");
    }

    #[test]
    fn a_cause_that_is_quoted_already_is_not_repeated() {
        let error = Error::storage("cannot write: full").with_source(Error::timeout("full"));
        assert_eq!(format!("{error:#}"), "cannot write: full");
    }

    #[test]
    fn a_cause_keeps_only_the_outermost_context() {
        let text =
            |error: Error| error.context("cannot declare queue `a`").context("cannot send `b`").to_string();
        let error = Error::cause(ErrorKind::Connection, "no connection to `c`: refused");
        assert_eq!(text(error), "cannot send `b`: no connection to `c`: refused");
        let error = Error::topology("there is no exchange `x`");
        assert_eq!(text(error), "cannot send `b`: cannot declare queue `a`: there is no exchange `x`");
    }
}
