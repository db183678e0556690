//! What the integration tests share: a RabbitMQ node of their own, a network that fails on request, real
//! processes, and waiting without sleeping.
#![allow(clippy::missing_panics_doc)]

pub mod authority;
pub mod browser;
pub mod journal;
pub mod node;
pub mod places;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod readme;
pub mod redis;
mod server;
pub mod shared;
pub mod wait;
mod webdriver;

pub use browser::Browser;
pub use node::Node;
pub use process::Process;
pub use proxy::Proxy;
pub use wait::{eventually, eventually_blocking, within};

use std::net::TcpListener;

/// A name that no other test uses, now or in another run.
pub fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// A directory that goes when it is dropped.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mq-worker-test-").tempdir().expect("a temporary directory")
}

/// A port on loopback that nobody listens on.
///
/// Somebody may take it before it is used; whoever uses it must report that plainly.
pub fn free_port() -> u16 {
    // Below those that the system gives to outgoing connections: they come and go all the time.
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(16_000..32_000)).take(1000).find(free).expect("a free port")
}
