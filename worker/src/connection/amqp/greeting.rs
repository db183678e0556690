//! Checks the first bytes from a server, to give a helpful error when it does not speak AMQP.
//!
//! Without it, an HTTP server on the configured port would show up as a parser error, and a TLS port as a closed
//! connection.

use std::io;

/// Returns what is wrong with the first bytes; `None` when they start a method frame, as a broker's do.
pub(super) fn check_greeting(first: &[u8]) -> Option<io::Error> {
    let wrong = |text: &str| Some(io::Error::new(io::ErrorKind::InvalidData, text));
    match first {
        // It may be a broker that is starting, or a proxy whose broker is down.
        [] => Some(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the server closed the connection without sending anything; if this persists, it does not speak AMQP on that port",
        )),
        [1, ..] => None,
        [b'A', b'M', b'Q', b'P', ..] => wrong("the server speaks another version of AMQP than 0-9-1"),
        // TLS alert and handshake records.
        [0x15 | 0x16, 3, ..] => wrong("the server expects TLS on that port: use an amqps:// address"),
        _ if first.starts_with(b"HTTP/") => wrong(
            "the server does not speak AMQP on that port but HTTP: RabbitMQ's port is 5672, with TLS 5671",
        ),
        _ => wrong("the server does not speak AMQP on that port: RabbitMQ's port is 5672, with TLS 5671"),
    }
}
