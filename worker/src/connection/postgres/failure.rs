//! Translates errors of PostgreSQL.

use std::error::Error as _;

use tokio_postgres::error::SqlState;

use crate::error::{Error, ErrorKind};

/// Converts an error of PostgreSQL into one that states the cause in plain words and keeps the original as its source.
pub(super) fn describe(shown: &str, what: &str, error: tokio_postgres::Error) -> Error {
    let (kind, why) = match error.code() {
        Some(code) => of_server(code),
        None => of_connection(&error),
    };
    Error::new(kind, format!("cannot {what}: {shown} {why}")).with_source(error)
}

fn of_server(code: &SqlState) -> (ErrorKind, &'static str) {
    match *code {
        SqlState::INVALID_PASSWORD => (ErrorKind::LoginRefused, "refuses the password"),
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => (ErrorKind::LoginRefused, "refuses the user"),
        SqlState::INVALID_CATALOG_NAME => (ErrorKind::LoginRefused, "has no such database: create it first"),
        SqlState::INSUFFICIENT_PRIVILEGE => (
            ErrorKind::AccessRefused,
            "does not permit this user to do that: it needs its table `mq_worker_result`, or the right to create it",
        ),
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            (ErrorKind::Storage, "is read-only: it is a standby, or is set to read-only; name the primary")
        }
        SqlState::DISK_FULL => (ErrorKind::Storage, "has no room left on its disk"),
        SqlState::TOO_MANY_CONNECTIONS => (ErrorKind::Storage, "takes no more connections"),
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::DATATYPE_MISMATCH => (
            ErrorKind::Storage,
            "has no table `mq_worker_result` as this version knows it: was it dropped or changed while programs used it?",
        ),
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::CANNOT_CONNECT_NOW => {
            (ErrorKind::Connection, "is starting or stopping")
        }
        SqlState::CHARACTER_NOT_IN_REPERTOIRE | SqlState::UNTRANSLATABLE_CHARACTER => (
            ErrorKind::Codec,
            "cannot store this text: it contains a NUL, or characters that the database's encoding lacks",
        ),
        SqlState::PROGRAM_LIMIT_EXCEEDED | SqlState::INVALID_PARAMETER_VALUE => {
            (ErrorKind::Codec, "cannot store this: the id or the record is too long for it")
        }
        _ => (ErrorKind::Storage, "answered with an error"),
    }
}

fn of_connection(error: &tokio_postgres::Error) -> (ErrorKind, &'static str) {
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    if cause.contains("password missing") {
        return (ErrorKind::LoginRefused, "wants a password: postgres://USER:PASSWORD@HOST/DATABASE");
    }
    if cause.contains("server does not support TLS") {
        return (ErrorKind::LoginRefused, "does not support TLS, which `sslmode=require` requires");
    }
    (ErrorKind::Connection, "cannot be reached")
}
