//! Translates errors of Redis.

use redis::ErrorKind as Kind;
use redis::RedisError;

use crate::error::{Error, ErrorKind};

/// Converts an error of Redis into one that states the cause in plain words and keeps the original as its source.
pub(super) fn describe(shown: &str, what: &str, error: RedisError) -> Error {
    let (kind, why) = meaning(&error);
    Error::new(kind, format!("cannot {what}: {shown} {why}")).with_source(error)
}

fn meaning(error: &RedisError) -> (ErrorKind, &'static str) {
    match error.code().unwrap_or_default() {
        "WRONGPASS" => (ErrorKind::LoginRefused, "refuses the user or the password"),
        "NOAUTH" => (ErrorKind::LoginRefused, "wants a password: redis://:PASSWORD@HOST"),
        "NOPERM" => (ErrorKind::AccessRefused, "does not permit this user the command"),
        "READONLY" => (ErrorKind::Storage, "is read-only: it is a replica; name the primary"),
        "OOM" => (ErrorKind::Storage, "has no memory left (`maxmemory`)"),
        "MISCONF" => (ErrorKind::Storage, "rejects writes because it cannot save to disk"),
        "LOADING" => (ErrorKind::Storage, "is loading its data"),
        "WRONGTYPE" => {
            (ErrorKind::Codec, "has a value of another type under the result's key: another program wrote it")
        }
        _ => by_kind(error),
    }
}

fn by_kind(error: &RedisError) -> (ErrorKind, &'static str) {
    let is_about = |text: &str| error.to_string().contains(text);
    match error.kind() {
        Kind::AuthenticationFailed => (ErrorKind::LoginRefused, "refuses the user or the password"),
        Kind::MasterNameNotFoundBySentinel => (
            ErrorKind::Connection,
            "has sentinels that know no primary by this `master_name`, or none that is up",
        ),
        _ if error.is_timeout() => (ErrorKind::Timeout, "does not answer in time"),
        _ if is_about("certificate") => (
            ErrorKind::Connection,
            "cannot be trusted: its certificate is from an unknown authority, or for another host",
        ),
        _ if error.is_io_error() || error.is_connection_dropped() || error.is_connection_refusal() => {
            (ErrorKind::Connection, "cannot be reached")
        }
        _ if is_about("switch database") => (ErrorKind::LoginRefused, "has no database of this number"),
        _ => (ErrorKind::Storage, "answered with an error"),
    }
}
