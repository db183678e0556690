//! Looks at the first bytes that a server sends: whoever does not speak AMQP is told so in words that help.
//!
//! Without it, an HTTP server on the configured port is a parser's error, and a port that wants TLS is a connection that
//! was closed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};

/// A stream that has not been looked at yet, or is good.
#[derive(Debug)]
pub(super) struct Greeting<S> {
    inner: S,
    is_seen: bool,
}

impl<S> Greeting<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, is_seen: false }
    }
}

/// What is wrong with the first bytes; `None` when they begin a frame with a method, as a broker does.
fn objection(first: &[u8]) -> Option<io::Error> {
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

impl<S: AsyncRead + Unpin> AsyncRead for Greeting<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        if !self.is_seen && !out.is_empty() {
            self.is_seen = true;
            if let Some(objection) = objection(&out[..read]) {
                return Poll::Ready(Err(objection));
            }
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
