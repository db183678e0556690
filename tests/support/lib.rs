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

use std::net::{TcpListener, UdpSocket};
use std::sync::Mutex;

/// Returns a name that no other test uses, in this or any other run.
pub fn unique(what: &str) -> String {
    format!("{what}-{}", uuid::Uuid::new_v4().simple())
}

/// Returns a directory that is removed on drop.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("mq-worker-test-").tempdir().expect("a temporary directory")
}

/// Returns a free port on loopback, which no other test gets.
///
/// Another program may take it before it is used, which the test must report clearly.
pub fn free_port() -> u16 {
    // A server may take seconds before it listens. Until this program ends, the UDP port of the same number shows all test
    // programs that the port is taken.
    static TAKEN: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let take = |port| {
        let mark = UdpSocket::bind(("127.0.0.1", port)).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok()?;
        TAKEN.lock().expect("never poisoned: nothing panics under it").push(mark);
        Some(port)
    };
    // Below the range for outgoing connections, which come and go all the time.
    let ports = std::iter::repeat_with(|| fastrand::u16(16_000..32_000));
    ports.take(1000).find_map(take).expect("a free port")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn no_port_is_given_twice() {
        // Chosen at random alone, two of these would be the same in 19 of 20 runs.
        let ports: HashSet<u16> = (0..310).map(|_| super::free_port()).collect();
        assert_eq!(ports.len(), 310);
    }
}
