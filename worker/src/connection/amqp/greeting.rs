//! Checks the first bytes that a server sends, so that a server that does not speak AMQP gets an error that helps.
//!
//! Without it, an HTTP server on the configured port is a parser's error, and a port that wants TLS is a connection that
//! was closed.

use std::io;

/// What is wrong with the first bytes; `None` when they begin a frame with a method, as a broker does.
pub(super) fn objection(first: &[u8]) -> Option<io::Error> {
    let wrong = |text: &str| Some(io::Error::new(io::ErrorKind::InvalidData, text));
    match first {
        // It may be a broker that is starting, or a proxy in front of one that is away.
        [] => Some(io::Error::new(
            io::ErrorKind::ConnectionReset,
            "the server closed the connection without sending anything; if this persists, it does not speak AMQP on that port",
        )),
        [1, ..] => None,
        [b'A', b'M', b'Q', b'P', ..] => wrong("the server speaks another version of AMQP than 0-9-1"),
        // The alert and the handshake of TLS.
        [0x15 | 0x16, 3, ..] => wrong(
            "the server does not speak plain AMQP on that port but TLS: an address for it begins with amqps://",
        ),
        _ if first.starts_with(b"HTTP/") => wrong(
            "the server does not speak AMQP on that port but HTTP: RabbitMQ's port is 5672, with TLS 5671",
        ),
        _ => wrong("the server does not speak AMQP on that port: RabbitMQ's port is 5672, with TLS 5671"),
    }
}
