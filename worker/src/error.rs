//! [`Error`], one opaque type with `is_…` methods, and [`TaskFailure`], the stored failure of a task.

use std::error::Error as StdError;
use std::fmt;

use serde::{Deserialize, Serialize};

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

    /// An error that is shown in two parts, however many steps are between them: the request, and this cause.
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
        self.0.kind == ErrorKind::Connection
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
            let mut source = self.source();
            while let Some(cause) = source {
                write!(f, ": {cause}")?;
                source = cause.source();
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

/// Why JSON could not be read into a type, without its values: they may be secrets, and the text is written into logs,
/// dead letters and results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable(String);

/// The kinds of values that serde names.
const KINDS: [&str; 18] = [
    "boolean",
    "integer",
    "floating point",
    "number",
    "character",
    "string",
    "byte array",
    "unit value",
    "null",
    "Option value",
    "newtype struct",
    "sequence",
    "map",
    "enum",
    "unit variant",
    "newtype variant",
    "tuple variant",
    "struct variant",
];

impl From<&serde_json::Error> for Undecodable {
    fn from(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let place = match error.line() {
            0 => String::new(),
            line => format!(" at line {line} column {}", error.column()),
        };
        let text = text.strip_suffix(&place).unwrap_or(&text);
        // The parser's own words are about characters and quote none; those about data come from types.
        let text = if error.is_data() { without_values(text) } else { text.to_owned() };
        Self(text + &place)
    }
}

/// serde's message about a value that does not fit, without the value. A custom message of a type may quote anything,
/// so it is dropped.
pub(crate) fn without_values(text: &str) -> String {
    // Names of the type's own fields, and numbers.
    if ["missing field `", "duplicate field `", "invalid length "].iter().any(|known| text.starts_with(known))
    {
        return text.to_owned();
    }
    // Whatever is quoted stands before: the last one is serde's.
    let expected = text.rfind(", expected ").or_else(|| text.rfind(", there are no "));
    let expected = expected.map_or("", |at| &text[at..]);
    for what in ["invalid type", "invalid value"] {
        let value = text.strip_prefix(what).and_then(|rest| rest.strip_prefix(": "));
        if let Some(value) = value {
            let kind = KINDS.iter().find(|kind| {
                let rest = value.strip_prefix(**kind);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', ',']))
            });
            return format!("{what}: {}{expected}", kind.unwrap_or(&"another value"));
        }
    }
    for what in ["unknown variant", "unknown field"] {
        if text.starts_with(what) {
            return format!("{what}{expected}");
        }
    }
    "the type refuses the value".into()
}

impl fmt::Display for Undecodable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Undecodable {}

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
    /// What led to it, for people: Python's traceback; of a Rust error its place and its sources; of a panic its place and a
    /// backtrace.
    pub traceback: Option<String>,
    /// The arguments of Python's exception, where they are more than its text.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<serde_json::Value>,
}

/// The language of an error's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Language {
    /// An error type of a Rust program.
    Rust,
    /// An exception of Python or of Celery. Workers in Rust use Celery's own for what Celery has a class for, such as
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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Card {
        number: u64,
        kind: Kind,
        #[serde(default)]
        tag: Option<Tag>,
        #[serde(default)]
        small: u8,
    }

    #[derive(Debug, Deserialize)]
    enum Kind {
        Debit,
        Credit,
    }

    #[derive(Debug, Deserialize)]
    enum Never {}

    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Tag;

    impl TryFrom<String> for Tag {
        type Error = String;

        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("no such tag: {text}"))
        }
    }

    #[test]
    fn of_a_cause_only_the_last_want_is_told() {
        let told =
            |error: Error| error.context("cannot declare queue `a`").context("cannot send `b`").to_string();
        let error = Error::cause(ErrorKind::Connection, "no connection to `c`: refused");
        assert_eq!(told(error), "cannot send `b`: no connection to `c`: refused");
        let error = Error::topology("there is no exchange `x`");
        assert_eq!(told(error), "cannot send `b`: cannot declare queue `a`: there is no exchange `x`");
    }

    #[test]
    fn what_does_not_fit_is_told_without_the_value() {
        let told = |json: &str| {
            let error = serde_json::from_str::<Card>(json).expect_err(json);
            Undecodable::from(&error).to_string()
        };
        for (json, expected) in [
            (r#"{"number": "hunter2"}"#, "invalid type: string, expected u64 at line 1 column 20"),
            (
                r#"{"number": "hunter2, expected hunter2"}"#,
                "invalid type: string, expected u64 at line 1 column 38",
            ),
            (r#"{"number": -4711}"#, "invalid value: integer, expected u64 at line 1 column 16"),
            (r#"{"number": 47.11}"#, "invalid type: floating point, expected u64 at line 1 column 16"),
            (r#"{"number": true}"#, "invalid type: boolean, expected u64 at line 1 column 15"),
            (r#"{"number": ["hunter2"]}"#, "invalid type: sequence, expected u64 at line 1 column 11"),
            (r#"{"small": 4711}"#, "invalid value: integer, expected u8 at line 1 column 14"),
            (r#"{"kind": "hunter2`"}"#, "unknown variant, expected `Debit` or `Credit` at line 1 column 19"),
            (
                r#"{"hunter2": 1}"#,
                "unknown field, expected one of `number`, `kind`, `tag`, `small` at line 1 column 10",
            ),
            (r#"{"tag": "hunter2"}"#, "the type refuses the value at line 1 column 18"),
            (r#"{"number": 1}"#, "missing field `kind` at line 1 column 13"),
            (r#"{"number": 1, "number": 2}"#, "duplicate field `number` at line 1 column 22"),
            (r#"{"number": hunter2}"#, "expected value at line 1 column 12"),
            ("[]", "invalid length 0, expected struct Card with 4 elements at line 1 column 2"),
        ] {
            assert_eq!(told(json), expected, "{json}");
        }
        let error = serde_json::from_value::<Never>("hunter2".into()).expect_err("no variants");
        assert_eq!(Undecodable::from(&error).to_string(), "unknown variant, there are no variants");
    }
}
