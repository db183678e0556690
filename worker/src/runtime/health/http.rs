//! Answers `GET` and `HEAD` for three paths: as much of HTTP/1.1 as a probe needs.
//!
//! One request per connection, bounded in size, time and number: a client that can reach the port cannot harm the worker.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::HealthState;
use crate::message::JSON;
use crate::tracing;

/// How long a connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// How many connections are served at once; others wait.
const CONNECTIONS: usize = 64;
/// The largest request: probes send a few hundred bytes.
const REQUEST: usize = 8 * 1024;
/// The type of Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, vitals: Arc<HealthState>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let vitals = Arc::clone(&vitals);
                tokio::spawn(async move {
                    // Errors and timeouts are the client's problem.
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, answer(stream, &vitals)).await;
                    drop(place);
                });
            }
            // For instance when out of file descriptors, which is temporary.
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for a health check");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, vitals: &HealthState) -> std::io::Result<()> {
    let mut request = Vec::new();
    let is_whole = |request: &[u8]| request.windows(4).any(|end| end == b"\r\n\r\n");
    while !is_whole(&request) && request.len() < REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let response = if is_whole(&request) {
        respond(&request, vitals).await
    } else {
        refuse("431 Request Header Fields Too Large")
    };
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await?;
    // Unread input would reset the connection before the client has read the response.
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

async fn respond(request: &[u8], vitals: &HealthState) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let words: Vec<&str> = std::str::from_utf8(line).unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return refuse("400 Bad Request") };
    if !version.starts_with("HTTP/1.") {
        return refuse("400 Bad Request");
    }
    let path = target.split('?').next();
    if !matches!(path, Some("/livez" | "/readyz" | "/metrics")) {
        return refuse("404 Not Found");
    }
    if !matches!(method, "GET" | "HEAD") {
        return refuse("405 Method Not Allowed\r\nAllow: GET, HEAD");
    }
    let (status, kind, body) = match path {
        Some("/metrics") => match vitals.metrics().await {
            Some(text) => ("200 OK", METRICS, text),
            None => return refuse("404 Not Found"),
        },
        path => {
            let report = if path == Some("/livez") { vitals.liveness() } else { vitals.readiness() };
            let status = if report.is_ok() { "200 OK" } else { "503 Service Unavailable" };
            let body = serde_json::to_string(&report).expect("texts, numbers and times are JSON") + "\n";
            (status, JSON, body)
        }
    };
    let head = head(status, kind, body.len());
    if method == "HEAD" { head } else { head + &body }
}

fn refuse(status: &str) -> String {
    head(status, JSON, 0)
}

fn head(status: &str, kind: &str, length: usize) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
}
