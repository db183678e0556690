//! A private PgBouncer in front of a PostgreSQL server.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::postgres::Postgres;
use crate::server::{Server, give_away, unprivileged};
use crate::shared::left_out;
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir};

/// Debian's program.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// A running pooler.
#[derive(Debug)]
pub struct Pooler {
    port: u16,
    directory: PathBuf,
    server: Option<Server>,
}

/// Returns true if tests can start one; otherwise prints, once per file, what is skipped.
pub fn is_installed(file: &str) -> bool {
    let is_installed = Path::new(PROGRAM).exists();
    if !is_installed {
        left_out(file, "tests with PgBouncer", &format!("there is no {PROGRAM}; ./tests/run installs it"));
    }
    is_installed
}

impl Pooler {
    /// Starts one in a mode: `transaction` or `session`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(postgres: &Postgres, mode: &str) -> Self {
        let (port, directory) = (free_port(), temp_dir().keep());
        let path = directory.join("pgbouncer.ini");
        let configuration = format!(
            "[databases]\n* = user=postgres host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\n[users]\n",
            postgres.port()
        );
        std::fs::write(&path, configuration).expect("written");
        give_away(&directory);
        let server = Server::start(unprivileged(Path::new(PROGRAM)).arg(path), &directory);
        eventually_blocking("PgBouncer listens", Duration::from_secs(30), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { port, directory, server: Some(server) }
    }

    /// Returns the address of a database behind it.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.end(Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
