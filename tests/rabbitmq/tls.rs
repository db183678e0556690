//! TLS connections: the authorities that they trust, and their client certificates.

use std::time::{Duration, Instant};

use mq_worker::{ConnectOptions, TlsOptions, broker};
use support::authority::{Authority, Purpose};
use support::shared::may_start_rabbitmq;
use support::{Node, free_port};

use super::fixture::{Fixture, options, to, url};

/// Starts a node that requires client certificates over TLS; returns it with its address.
async fn node(authority: &Authority) -> (Node, String) {
    authority.sign("server", &["localhost", "127.0.0.1"], Purpose::ServerAuth);
    authority.sign("client", &["worker"], Purpose::ClientAuth);
    let (port, file) = (free_port(), |name| authority.file(name).display().to_string());
    let configuration = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
        file("ca.pem"),
        file("server.pem"),
        file("server.key")
    );
    let start = move || Node::start_with(&configuration);
    let node = tokio::task::spawn_blocking(start).await.expect("a node");
    (node, format!("amqps://guest:guest@localhost:{port}/%2f"))
}

/// Returns the error of a client that cannot talk to a server; it must come soon.
async fn refusal(url: &str, tls: TlsOptions) -> mq_worker::Error {
    let options = ConnectOptions { tls, timeout: Duration::from_secs(3), ..options() };
    let broker = broker::open(&url.parse().expect("a URL"), &options).await.expect("not tried yet");
    let begun = Instant::now();
    let error = broker.publish(to("q", "i")).await.expect_err("they do not come together");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    broker.close().await;
    error
}

#[tokio::test]
async fn a_server_without_tls_is_an_error_at_once() {
    let Some(url) = url() else { return };
    // The server does not speak TLS on this port.
    let error = refusal(&url.replacen("amqp://", "amqps://", 1), TlsOptions::default()).await;
    assert!(error.is_connection() && error.to_string().contains("TLS"), "{error:?}");
}

#[tokio::test]
async fn a_private_authority_and_a_client_certificate_are_what_the_settings_name() {
    if !may_start_rabbitmq("TLS") {
        return;
    }
    let authority = Authority::create();
    let (_node, url) = node(&authority).await;
    let file = |name| Some(authority.file(name));
    let trusting = TlsOptions { ca_file: file("ca.pem"), ..TlsOptions::default() };
    let known =
        TlsOptions { cert_file: file("client.pem"), key_file: file("client.key"), ..trusting.clone() };
    let t = Fixture::with(&url, ConnectOptions { tls: known.clone(), ..options() }).await;
    let queue = t.queue("q", |_| {}).await;
    t.send(&queue, "i").await.expect("taken");
    t.end().await;
    let error = refusal(&url, TlsOptions { ca_file: None, ..known }).await;
    assert!(error.is_connection() && error.to_string().contains("certificate"), "nobody vouches: {error}");
    let error = refusal(&url, trusting).await;
    assert!(error.is_connection(), "the server does not know us: {error}");
}
