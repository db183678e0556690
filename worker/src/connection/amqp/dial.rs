//! One attempt to connect, which always ends.
//!
//! `lapin` waits for ever for a server that accepts and says nothing, and its I/O thread with it. So the socket is
//! made here, and a second handle to it is kept: shutting that down ends the thread, whatever it waits for.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;

use super::address::Address;
use super::failure::Failure;
use super::reactor;
use super::sieve::Sieve;
use crate::error::ErrorKind;

/// The second handle to a connection's socket.
#[derive(Clone, Default)]
pub(super) struct Cutter(Arc<Mutex<Cut>>);

/// Cuts when it is dropped: no connection outlives whoever made it.
pub(super) struct CutOnDrop(pub(super) Cutter);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut();
    }
}

#[derive(Default)]
struct Cut {
    socket: Option<TcpStream>,
    is_cut: bool,
}

impl Cutter {
    /// Ends the connection now: both directions, without a goodbye.
    pub(super) fn cut(&self) {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cut.is_cut = true;
        if let Some(socket) = cut.socket.take() {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// False when it was cut before it was there.
    fn hold(&self, socket: TcpStream) -> bool {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cut.is_cut {
            let _ = socket.shutdown(Shutdown::Both);
        } else {
            cut.socket = Some(socket);
        }
        !cut.is_cut
    }
}

/// Connects and logs in, within `limit`. Whoever gives up cuts.
pub(super) async fn dial(
    address: &Address,
    name: &str,
    limit: Duration,
    cutter: &Cutter,
) -> Result<Connection, Failure> {
    let in_tls = Arc::new(AtomicBool::new(false));
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "mq-worker".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let sockets = async_rs::Tokio::current();
    let (held, tls_begun, tls) = (cutter.clone(), Arc::clone(&in_tls), address.tls.clone());
    // Written in place: only so does the compiler know the type of the stream.
    let connecting = Connection::connector(
        address.uri.clone(),
        reactor::runtime(),
        async move |uri, _| {
            let open = async {
                let host = (uri.authority.host.as_str(), uri.authority.port);
                let addresses: Vec<_> = tokio::net::lookup_host(host).await?.collect();
                let stream = AsyncTcpStream::connect(&sockets, addresses).await?;
                if let AsyncTcpStream::Plain(plain) = &stream {
                    plain.get_ref().set_nodelay(true)?;
                    if !held.hold(second_handle(plain.get_ref())?) {
                        return Err(std::io::ErrorKind::ConnectionAborted.into());
                    }
                }
                if uri.scheme == AMQPScheme::AMQP {
                    return Ok(AsyncTcpStream::Plain(Sieve::new(stream)));
                }
                tls_begun.store(true, Ordering::Relaxed);
                let stream = stream.into_tls(&uri.authority.host, tls.as_ref()).await?;
                tls_begun.store(false, Ordering::Relaxed);
                Ok(AsyncTcpStream::Plain(Sieve::new(stream)))
            };
            let opened: std::io::Result<_> =
                timeout(limit, open).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            opened.map_err(lapin::Error::from)
        },
        properties,
    );
    let failure = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) if in_tls.load(Ordering::Relaxed) => tls_failure(&error),
        Ok(Err(error)) => Failure::from(&error),
        Err(_) => Failure {
            kind: ErrorKind::Connection,
            text: format!("the server did not answer within {}", humantime::format_duration(limit)),
            is_final: false,
        },
    };
    Err(Failure { text: format!("cannot connect to `{}`: {}", address.shown, failure.text), ..failure })
}

/// A certificate that is not trusted stays so; a connection that broke off may be a server that is starting.
fn tls_failure(error: &lapin::Error) -> Failure {
    let is_final = match error.kind() {
        lapin::ErrorKind::IOError(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    };
    Failure { kind: ErrorKind::Connection, text: format!("TLS: {error}"), is_final }
}

#[cfg(unix)]
fn second_handle(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::fd::AsFd;
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}

#[cfg(windows)]
fn second_handle(stream: &tokio::net::TcpStream) -> std::io::Result<TcpStream> {
    use std::os::windows::io::AsSocket;
    Ok(stream.as_socket().try_clone_to_owned()?.into())
}
