//! Converts `lapin`'s errors into this crate's.

use lapin::protocol::AMQPError;

use crate::error::{Error, ErrorKind};

/// The broker's reply codes that decide what happens next.
pub(crate) mod code {
    pub(crate) const ACCESS_REFUSED: u16 = 403;
    pub(crate) const NOT_FOUND: u16 = 404;
    pub(crate) const RESOURCE_LOCKED: u16 = 405;
    pub(crate) const PRECONDITION_FAILED: u16 = 406;
    /// A virtual host that does not exist, or that this user may not use.
    pub(crate) const NOT_ALLOWED: u16 = 530;
}

/// Why there is no connection. Cloned for each waiting caller.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) text: String,
    /// The address without its password.
    pub(super) shown: Option<String>,
    /// Another attempt would not help: waiting callers get the error at once.
    pub(crate) is_final: bool,
}

impl Failure {
    pub(crate) fn connection(text: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Connection, text: text.into(), shown: None, is_final: false }
    }

    /// Adds the address that could not be reached.
    pub(super) fn at(self, shown: &str) -> Self {
        Self { shown: Some(shown.to_owned()), ..self }
    }

    /// The error for any caller that needs the connection.
    pub(crate) fn to_error(&self) -> Error {
        let to = self.shown.as_ref().map_or("the broker".into(), |shown| format!("`{shown}`"));
        Error::cause(self.kind.clone(), format!("no connection to {to}: {}", self.text))
    }
}

impl From<&lapin::Error> for Failure {
    fn from(error: &lapin::Error) -> Self {
        let refused = matches!(reply_code(error), Some(code::ACCESS_REFUSED | code::NOT_ALLOWED));
        let kind = if refused { ErrorKind::LoginRefused } else { ErrorKind::Connection };
        Self { kind, text: text(error), shown: None, is_final: refused }
    }
}

fn protocol(error: &lapin::Error) -> Option<&AMQPError> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error),
        _ => None,
    }
}

/// The broker's reply code, if it sent one.
pub(crate) fn reply_code(error: &lapin::Error) -> Option<u16> {
    protocol(error).map(AMQPError::get_id)
}

/// The broker's message, or else `lapin`'s own.
pub(crate) fn text(error: &lapin::Error) -> String {
    match protocol(error) {
        Some(error) => error.get_message().to_string(),
        None => match error.kind() {
            lapin::ErrorKind::IOError(error) => error.to_string(),
            lapin::ErrorKind::ChannelsLimitReached => {
                "all channels of the connection are in use: raise `channel_max` in the broker's URL, or the server's own"
                    .into()
            }
            _ => error.to_string(),
        },
    }
}

/// The error for a reply that did not arrive in time.
pub(crate) fn timed_out() -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// True when the broker closed only the channel; the connection stays open.
pub(crate) fn is_channel_error(error: &lapin::Error) -> bool {
    matches!(
        reply_code(error),
        Some(
            code::ACCESS_REFUSED | code::NOT_FOUND | code::RESOURCE_LOCKED | code::PRECONDITION_FAILED | 311
        )
    )
}

/// True when a queue exists but cannot be reached: the cluster node that hosts it is down, or another connection is
/// declaring it at this moment.
pub(crate) fn is_out_of_reach(error: &lapin::Error) -> bool {
    reply_code(error) == Some(code::NOT_FOUND) && text(error).contains("is down or inaccessible")
}

/// The error for a request that the broker refused, or whose connection was lost.
pub(crate) fn to_error(what: impl std::fmt::Display, error: lapin::Error) -> Error {
    let kind = match reply_code(&error) {
        _ if is_out_of_reach(&error) => ErrorKind::Connection,
        Some(code::ACCESS_REFUSED) => ErrorKind::AccessRefused,
        Some(code::NOT_ALLOWED) => ErrorKind::LoginRefused,
        Some(code::NOT_FOUND | code::RESOURCE_LOCKED | code::PRECONDITION_FAILED) => ErrorKind::Topology,
        Some(_) if is_channel_error(&error) => ErrorKind::Rejected,
        _ => ErrorKind::Connection,
    };
    let described = Error::new(kind, format!("{what}: {}", text(&error)));
    // The broker's message is already in the text: a source would only repeat it.
    if protocol(&error).is_some() { described } else { described.with_source(error) }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

    use super::*;

    fn not_found(text: &str) -> Error {
        let answer = AMQPError::new(AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), text.into());
        to_error("publish", lapin::ErrorKind::ProtocolError(answer).into())
    }

    #[test]
    fn a_queue_whose_node_is_down_comes_back_and_one_that_does_not_exist_does_not() {
        let down = "NOT_FOUND - queue 'work' in vhost '/' process is stopped by supervisor, \
                    or its home node 'rabbit@b' is down or inaccessible";
        assert!(not_found(down).is_connection());
        assert!(not_found("NOT_FOUND - no queue 'work' in vhost '/'").is_topology());
    }
}
