//! Serves browser connections: bounds their number and the time that a request may take to arrive.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use futures_util::StreamExt;
use futures_util::stream::unfold;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tracing::debug;

/// Limits that keep one client from starving the others.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// How many connections are served at once; further ones wait.
    connections: usize,
    /// How long the head of a request may take. A connection without a request is closed after this time too.
    head: Duration,
    /// How long the rest of a request may take.
    body: Duration,
}

/// Each connection takes a file handle, and a process may usually open 1024.
pub(super) const LIMITS: Limits =
    Limits { connections: 256, head: Duration::from_secs(15), body: Duration::from_secs(60) };
/// How large the head of a request may be.
const LARGEST_HEAD: usize = 64 * 1024;
/// How long requests may continue during shutdown.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait after a failed accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is stopped.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: &CancellationToken) {
    let (places, serving) = (Arc::new(Semaphore::new(limits.connections)), TaskTracker::new());
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                serving.spawn(async move {
                    serve_connection(stream, peer, router, limits, &stop).await;
                    drop(place);
                });
            }
            // Transient: out of file handles, for instance.
            Err(error) => {
                debug!(%error, "cannot accept a connection to the management page");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    serving.close();
    let _ = tokio::time::timeout(GRACE, serving.wait()).await;
}

/// Answers the requests of one connection. Its errors concern only this client and are ignored.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stop: &CancellationToken,
) {
    let service = TowerToHyperService::new(router);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(|body| in_time(Body::new(body), limits.body));
        request.extensions_mut().insert(ConnectInfo(peer));
        service.call(request)
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), answer)
    );
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Wraps the body of a request so that reading fails once its time is up.
fn in_time(body: Body, time: Duration) -> Body {
    let deadline = Instant::now() + time;
    let pieces = unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match tokio::time::timeout_at(deadline, body.next()).await {
            Ok(piece) => Some((piece?.map_err(axum::BoxError::from), Some(body))),
            Err(_) => Some((Err("the request took too long".into()), None)),
        }
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Returns the response to a client that sends this and nothing more.
    async fn answer(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an end");
        answer
    }

    #[tokio::test]
    async fn slow_clients_are_cut_off_and_others_get_their_turn() {
        let limits =
            Limits { connections: 1, head: Duration::from_millis(100), body: Duration::from_millis(100) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let stop = CancellationToken::new();
        let router = Router::new().route("/", post(async |body: String| body));
        let stopped = stop.clone();
        let serving = tokio::spawn(async move { serve(listener, router, limits, &stopped).await });
        // Each client holds the only connection until its time is up.
        assert_eq!(answer(address, "POST / HT").await, "");
        let slow = answer(address, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nab").await;
        assert!(slow.starts_with("HTTP/1.1 400"), "{slow}");
        let good = answer(address, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab").await;
        assert!(good.starts_with("HTTP/1.1 200") && good.ends_with("ab"), "{good}");
        stop.cancel();
        serving.await.expect("no panic");
    }
}
