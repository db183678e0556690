//! Shared by the integration tests: a private RabbitMQ node, a network that fails on request, real processes, and waiting
//! without sleeping.
#![allow(clippy::missing_panics_doc)]

pub mod authority;
pub mod browser;
pub mod ctl;
mod forward;
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

/// Returns a name that no other test uses, in this or any other run.
pub fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// Returns a directory that is removed on drop.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mq-worker-test-").tempdir().expect("a temporary directory")
}

/// Returns a free port on loopback.
///
/// Another program may take it before it is used, which the test must report clearly.
pub fn free_port() -> u16 {
    // Below the range for outgoing connections, which come and go all the time.
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(16_000..32_000)).take(1000).find(free).expect("a free port")
}
