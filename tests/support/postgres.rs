//! Private PostgreSQL servers, each with its own port and directory, removed on drop or when this process exits.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use crate::server::{Server, give_away, unprivileged};
use crate::shared::left_out;
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir, unique};

/// Debian's directory with the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server with one superuser, `postgres`, who needs no password.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    port: u16,
    directory: PathBuf,
    server: Option<Server>,
}

/// Returns the server that all tests of this program share, for a test that needs its own database; `None`, after printing
/// why once per file, if PostgreSQL is not installed.
pub fn shared_server(file: &str) -> Option<&'static Postgres> {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    is_installed(file).then(|| SHARED.get_or_init(Postgres::start))
}

/// Returns the address of a database that all tests of this program share.
pub fn shared(file: &str) -> Option<String> {
    Some(shared_server(file)?.url())
}

/// Returns true if tests can start a server; otherwise prints, once per file, what is skipped.
pub fn is_installed(file: &str) -> bool {
    let is_installed = programs().is_some();
    if !is_installed {
        left_out(file, "tests with PostgreSQL", &format!("{VERSIONS} is empty; ./tests/run installs it"));
    }
    is_installed
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?;
    versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .find(|bin| bin.join("initdb").exists())
}

impl Postgres {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// Starts a server after changing files in its directory, such as `pg_hba.conf` and `postgresql.conf`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(change: impl FnOnce(&Path)) -> Self {
        let programs = programs().expect("PostgreSQL is installed");
        let directory = temp_dir().keep();
        give_away(&directory);
        let mut postgres = Self { programs, port: free_port(), directory, server: None };
        let made = unprivileged(&postgres.programs.join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(postgres.data())
            .status();
        assert!(made.expect("initdb").success(), "initdb makes a database");
        change(&postgres.data());
        give_away(&postgres.directory);
        postgres.launch();
        postgres
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Starts it again with the data that it had written.
    ///
    /// # Panics
    /// When it does not start.
    pub fn launch(&mut self) {
        let port = self.port.to_string();
        let mut command = unprivileged(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &port, "-c", "listen_addresses=127.0.0.1"]);
        command.args(["-c", "max_connections=200", "-k"]).arg(&self.directory);
        self.server = Some(Server::start(&mut command, &self.directory));
        eventually_blocking("PostgreSQL answers", Duration::from_secs(30), || {
            let ready = unprivileged(&self.programs.join("pg_isready"))
                .args(["-h", "127.0.0.1", "-p", &port])
                .status();
            ready.is_ok_and(|status| status.success()).then_some(())
        });
    }

    /// Stops it like a power cut: nothing more is written, and connections are closed. Not by SIGKILL, after which its other
    /// processes would get in the way of a restart.
    pub fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.end(Signal::QUIT);
        }
    }

    /// Returns the address of its first database.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Returns the address of a database.
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates a database and returns its name.
    pub fn create_database(&self) -> String {
        let name = unique("db").replace('-', "_");
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        name
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs statements in a database, as a superuser through the socket, and returns their output.
    ///
    /// # Panics
    /// When they fail.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut command: Command = unprivileged(&self.programs.join("psql"));
        let output = command
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "postgres",
            ])
            .args(["-p", &self.port.to_string(), "-d", database, "-c", statements, "-h"])
            .arg(&self.directory)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .expect("psql");
        assert!(output.status.success(), "{statements}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.crash();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
