//! Private Redis servers, each with its own port and directory, removed on drop or when this process exits.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::Signal;

use crate::authority::Authority;
use crate::server::Server;
use crate::shared::left_out;
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir};

/// Debian's program.
const PROGRAM: &str = "/usr/bin/redis-server";

/// A server that persists every acknowledged write.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
    is_secure: bool,
    server: Option<Server>,
}

/// Returns the server that all tests of this program share; `None`, after printing why once per file, if Redis is not
/// installed.
pub fn shared(file: &str) -> Option<String> {
    static SHARED: OnceLock<Redis> = OnceLock::new();
    is_installed(file).then(|| SHARED.get_or_init(Redis::start).url())
}

/// Returns true if tests can start a server; otherwise prints, once per file, what is skipped.
pub fn is_installed(file: &str) -> bool {
    let is_installed = Path::new(PROGRAM).exists();
    if !is_installed {
        left_out(file, "tests with Redis", &format!("there is no {PROGRAM}; ./tests/run installs it"));
    }
    is_installed
}

impl Redis {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::start_with(None, &[])
    }

    /// Starts a server with extra arguments that requires the password, if any.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(password: Option<&str>, arguments: &[&str]) -> Self {
        Self::begin(password, arguments, false)
    }

    /// Starts a TLS-only server with the certificate `server` of this authority.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_secure(authority: &Authority) -> Self {
        let file = |name| authority.file(name).display().to_string();
        let (ca, cert, key) = (file("ca.pem"), file("server.pem"), file("server.key"));
        let files = ["--tls-ca-cert-file", &*ca, "--tls-cert-file", &*cert, "--tls-key-file", &*key];
        let arguments = [&files[..], &["--tls-auth-clients", "no"]].concat();
        Self::begin(None, &arguments, true)
    }

    fn begin(password: Option<&str>, arguments: &[&str], is_secure: bool) -> Self {
        let mut redis = Self {
            port: free_port(),
            directory: temp_dir().keep(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            password: password.map(ToOwned::to_owned),
            is_secure,
            server: None,
        };
        redis.launch();
        redis
    }

    /// Starts a sentinel for a primary, which it calls `primary` and replaces after half a second without a reply.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_sentinel(of: &Redis) -> Self {
        let mut sentinel = Self {
            port: free_port(),
            directory: temp_dir().keep(),
            arguments: Vec::new(),
            password: None,
            is_secure: false,
            server: None,
        };
        let auth =
            of.password.as_ref().map_or(String::new(), |it| format!("sentinel auth-pass primary {it}\n"));
        let configuration = format!(
            "bind 127.0.0.1\nport {}\ndir {}\nloglevel warning\nsentinel monitor primary 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds primary 500\nsentinel failover-timeout primary 5000\n{auth}",
            sentinel.port,
            sentinel.directory.display(),
            of.port
        );
        let path = sentinel.directory.join("sentinel.conf");
        std::fs::write(&path, configuration).expect("written");
        let mut command = Command::new(PROGRAM);
        sentinel.run(command.arg(path).arg("--sentinel"));
        sentinel
    }

    /// Returns its address.
    pub fn url(&self) -> String {
        let login = self.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        match self.is_secure {
            true => format!("rediss://{login}localhost:{}/0", self.port),
            false => format!("redis://{login}127.0.0.1:{}/0", self.port),
        }
    }

    /// Returns host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command through `redis-cli` and returns the output.
    ///
    /// # Panics
    /// When there is no `redis-cli`.
    pub fn cli(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(arguments);
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        let output = command.output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Kills it as a power cut would.
    pub fn kill9(&mut self) {
        if let Some(server) = self.server.take() {
            server.end(Signal::KILL);
        }
    }

    /// Starts it again with the data that it had written.
    ///
    /// # Panics
    /// When it does not start.
    pub fn launch(&mut self) {
        let port = self.port.to_string();
        let ports = if self.is_secure {
            ["--port", "0", "--tls-port", &*port]
        } else {
            ["--port", &*port, "--tls-port", "0"]
        };
        let mut command = Command::new(PROGRAM);
        command
            .args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--loglevel", "warning"])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"])
            .args(ports)
            .arg("--dir")
            .arg(&self.directory)
            .args(&self.arguments);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password, "--masterauth", password]);
        }
        self.run(&mut command);
    }

    fn run(&mut self, command: &mut Command) {
        self.server = Some(Server::start(command, &self.directory));
        eventually_blocking("Redis listens", Duration::from_secs(30), || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill9();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
