//! One connection attempt, which always terminates.
//!
//! `lapin` and its I/O thread wait forever for a server that accepts and sends nothing. So the socket is created here,
//! and a second handle to it is kept: shutting that down ends the thread, whatever it is waiting for.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, SASLMechanism};
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::failure::{Failure, text};
use super::frame_filter::FrameFilter;
use super::reactor;

/// How long to wait for `lapin` to report why a stream has ended.
const REASON: Duration = Duration::from_millis(200);

/// The second handle to a connection's socket.
#[derive(Clone, Default)]
pub(super) struct Cutter(Arc<Mutex<Cut>>);

/// Cuts the connection when it is dropped: no connection outlives its owner.
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
    /// Ends the connection at once, in both directions, without closing it cleanly.
    pub(super) fn cut(&self) {
        let mut cut = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cut.is_cut = true;
        if let Some(socket) = cut.socket.take() {
            // An error means that it is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Keeps the handle. Returns `false`, and shuts the socket down, if the connection was already cut.
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

/// Connects and logs in, within `limit` or the URL's own `connection_timeout`. A caller that gives up must cut the
/// connection.
///
/// If the stream ends between two steps of the handshake, `lapin` stops its thread and may never answer its caller. So
/// the stream signals its end as well.
pub(super) async fn dial(
    address: &Address,
    name: &str,
    limit: Duration,
    cutter: &Cutter,
) -> Result<Connection, Failure> {
    let limit = address.uri.query.connection_timeout.map_or(limit, Duration::from_millis);
    let (in_tls, ended) = (Arc::new(AtomicBool::new(false)), CancellationToken::new());
    let properties = ConnectionProperties::default()
        .with_connection_name(name.into())
        .with_client_property("product".into(), "mq-worker".into())
        .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
    let sockets = async_rs::Tokio::current();
    let (held, tls_begun, tls) = (cutter.clone(), Arc::clone(&in_tls), address.tls.clone());
    let ends = ended.clone();
    // Written inline: otherwise the compiler cannot infer the type of the stream.
    let connecting = Connection::connector(
        address.uri.clone(),
        reactor::runtime(),
        async move |uri, _| {
            let frame_max = uri.query.frame_max.unwrap_or_default();
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
                    return Ok(AsyncTcpStream::Plain(FrameFilter::new(
                        stream,
                        frame_max,
                        ends.clone().drop_guard(),
                    )));
                }
                tls_begun.store(true, Ordering::Relaxed);
                let stream = stream.into_tls(&uri.authority.host, tls.as_ref()).await?;
                tls_begun.store(false, Ordering::Relaxed);
                Ok(AsyncTcpStream::Plain(FrameFilter::new(stream, frame_max, ends.clone().drop_guard())))
            };
            let opened: std::io::Result<_> =
                timeout(limit, open).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            opened.map_err(lapin::Error::from)
        },
        properties,
    );
    let connecting = async {
        let mut connecting = std::pin::pin!(connecting);
        tokio::select! {
            biased;
            connected = &mut connecting => connected,
            () = ended.cancelled() => timeout(REASON, connecting).await.unwrap_or_else(|_| {
                let why = "the connection was lost during the handshake";
                Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, why).into())
            }),
        }
    };
    let failure = match timeout(limit, connecting).await {
        Ok(Ok(connection)) => return Ok(connection),
        Ok(Err(error)) if in_tls.load(Ordering::Relaxed) => tls_failure(&error),
        Ok(Err(error)) => {
            let mut failure = Failure::from(&error);
            // A server that does not speak AMQP will not start to: fail waiting callers at once.
            failure.is_final |= is_invalid(&error);
            // RabbitMQ disconnects without a reason if it does not know the mechanism.
            if is_cut(&error) && has_unusual_login(address) {
                failure.text.push_str(
                    "; the broker may not offer the `auth_mechanism` of the address (`external` needs its plugin \
                     rabbitmq_auth_mechanism_ssl)",
                );
            }
            failure
        }
        Err(_) => Failure::connection(format!(
            "the server accepted the connection but sent nothing within {}; if this persists, it does not speak AMQP on \
             that port",
            humantime::format_duration(limit)
        )),
    };
    Err(failure.at(&address.shown))
}

/// The failure of a TLS handshake. An untrusted certificate is final; a broken connection may be a server that is
/// starting.
fn tls_failure(error: &lapin::Error) -> Failure {
    let mut why = format!("TLS: {}", text(error));
    // The first bytes were not TLS.
    if why.contains("InvalidContentType") {
        why.push_str(
            "; the server does not speak TLS on that port: an address for plain AMQP begins with amqp://",
        );
    }
    Failure { is_final: is_invalid(error), ..Failure::connection(why) }
}

fn has_unusual_login(address: &Address) -> bool {
    address.uri.query.auth_mechanism.is_some_and(|mechanism| mechanism != SASLMechanism::Plain)
}

/// True if the server disconnected.
fn is_cut(error: &lapin::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
    let cuts = [ConnectionAborted, ConnectionReset, UnexpectedEof];
    matches!(error.kind(), lapin::ErrorKind::IOError(error) if cuts.contains(&error.kind()))
}

/// True for invalid data, which another attempt would not change.
fn is_invalid(error: &lapin::Error) -> bool {
    matches!(error.kind(), lapin::ErrorKind::IOError(error) if error.kind() == std::io::ErrorKind::InvalidData)
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Instant;

    use super::*;
    use crate::connection::TlsOptions;

    /// Starts a server that sends this to its client and closes; with nothing to send, it stays connected and silent.
    fn server(says: Option<&'static [u8]>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().expect("a client");
            let mut greeting = [0; 8];
            let _ = socket.read(&mut greeting);
            match says {
                Some(says) => drop(socket.write_all(says)),
                // Until the client disconnects.
                None => while socket.read(&mut greeting).is_ok_and(|read| read > 0) {},
            }
        });
        port
    }

    #[tokio::test]
    async fn a_server_without_amqp_is_distinguished_from_one_that_is_down() {
        let http = "HTTP/1.1 400 Bad Request\r\n\r\n".as_bytes();
        let alert: &[u8] = &[0x15, 3, 3, 0, 2, 2, 70];
        for (scheme, says, limit, parts, is_final) in [
            ("amqp", Some(http), 10_000, ["does not speak AMQP", "HTTP"], true),
            ("amqp", Some(alert), 10_000, ["expects TLS", "amqps://"], true),
            ("amqp", Some(b"SSH-2.0-OpenSSH_9.2\r\n"), 10_000, ["does not speak AMQP", "5672"], true),
            ("amqp", Some(b"AMQP\x00\x01\x00\x00"), 10_000, ["another version", "0-9-1"], true),
            ("amqp", Some(b""), 10_000, ["closed the connection without sending anything", "AMQP"], false),
            ("amqp", None, 300, ["sent nothing within 300ms", "AMQP"], false),
            ("amqps", Some(b"AMQP\x00\x00\x09\x01"), 10_000, ["does not speak TLS", "amqp://"], true),
            ("amqps", Some(http), 10_000, ["does not speak TLS", "amqp://"], true),
        ] {
            let url = format!("{scheme}://u:hunter2@127.0.0.1:{}/v", server(says)).parse().expect("a URL");
            let address = Address::new(&url, &TlsOptions::default()).expect("an address");
            let dialled = dial(&address, "test", Duration::from_millis(limit), &Cutter::default()).await;
            let failure = dialled.expect_err("no broker");
            let error = failure.to_error().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{says:?}: {error}");
            assert!(error.starts_with("no connection to `amqp") && !error.contains("hunter2"), "{error}");
            assert_eq!(failure.is_final, is_final, "{error}");
        }
    }

    #[tokio::test]
    async fn the_address_can_limit_the_time_and_choose_the_login() {
        for (says, option, part) in [
            (None, "connection_timeout=200", "sent nothing within 200ms"),
            (Some(&[][..]), "auth_mechanism=external", "needs its plugin rabbitmq_auth_mechanism_ssl"),
        ] {
            let url = format!("amqp://127.0.0.1:{}/v?{option}", server(says)).parse().expect("a URL");
            let address = Address::new(&url, &TlsOptions::default()).expect("an address");
            let dialled = dial(&address, "test", Duration::from_secs(10), &Cutter::default()).await;
            let error = dialled.expect_err("no broker").to_error().to_string();
            assert!(error.contains(part), "{error}");
        }
        let away = "amqp://127.0.0.1:1/v?auth_mechanism=external".parse().expect("a URL");
        let away = Address::new(&away, &TlsOptions::default()).expect("an address");
        let dialled = dial(&away, "test", Duration::from_secs(10), &Cutter::default()).await;
        let error = dialled.expect_err("no broker").to_error().to_string();
        assert!(!error.contains("auth_mechanism` of"), "{error}");
    }

    /// RabbitMQ's frames while a connection is opened: start, tune, open-ok.
    fn handshake() -> [Vec<u8>; 3] {
        let long = |text: &str| {
            [&u32::try_from(text.len()).expect("short").to_be_bytes()[..], text.as_bytes()].concat()
        };
        let start = [&[0, 10, 0, 10, 0, 9][..], &long(""), &long("PLAIN AMQPLAIN"), &long("en_US")].concat();
        let tune =
            [&[0, 10, 0, 30, 0x07, 0xff][..], &131_072_u32.to_be_bytes(), &60_u16.to_be_bytes()].concat();
        let open_ok = vec![0, 10, 0, 41, 0];
        [start, tune, open_ok].map(|payload| {
            let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
            [&[1, 0, 0][..], &length, &payload, &[0xCE]].concat()
        })
    }

    /// Starts a server that disconnects at a random point of the handshake, sometimes with a reset.
    fn server_that_goes() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        std::thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let mut said = [0; 4096];
                for frame in handshake().iter().take(fastrand::usize(0..3)) {
                    let _ = socket.read(&mut said);
                    let _ = socket.write_all(frame);
                }
                let until = Instant::now() + Duration::from_micros(fastrand::u64(0..400));
                while Instant::now() < until {}
                // Closing a socket with unread data resets the connection.
                if fastrand::bool() {
                    let _ = socket.set_nonblocking(true);
                    let _ = socket.read(&mut said);
                }
            }
        });
        port
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_server_that_goes_in_the_middle_of_the_handshake_is_noticed_at_once() {
        let url = format!("amqp://u:hunter2@127.0.0.1:{}/v", server_that_goes()).parse().expect("a URL");
        let address = Arc::new(Address::new(&url, &TlsOptions::default()).expect("an address"));
        let callers = (0..8).map(|_| {
            let address = Arc::clone(&address);
            tokio::spawn(async move {
                for _ in 0..25 {
                    let begun = Instant::now();
                    let dialled = dial(&address, "test", Duration::from_secs(30), &Cutter::default()).await;
                    let failure = dialled.expect_err("no broker");
                    assert!(!failure.is_final && begun.elapsed() < Duration::from_secs(15), "{failure:?}");
                }
            })
        });
        futures_util::future::try_join_all(callers).await.expect("each ends at once");
    }
}
