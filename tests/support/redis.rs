//! A private Redis server: its own port and directory, both gone when it is dropped, or when this process ends.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::shared::left_out;
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir};

/// Debian's program.
const PROGRAM: &str = "/usr/bin/redis-server";

/// A server that keeps on its disk what it has answered.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    directory: PathBuf,
    password: Option<String>,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    process: Child,
    /// Ends the server as soon as its input closes, even when this process is killed.
    janitor: Child,
}

/// The server that all tests of this program share; `None`, which is said once per file, where Redis is not installed.
pub fn shared(file: &str) -> Option<String> {
    static SHARED: OnceLock<Redis> = OnceLock::new();
    is_installed(file).then(|| SHARED.get_or_init(Redis::start).url())
}

/// True if tests can start a server; else says, once per file, what is left out.
pub fn is_installed(file: &str) -> bool {
    let is_installed = Path::new(PROGRAM).exists();
    if !is_installed {
        left_out(file, "tests with Redis", &format!("there is no {PROGRAM}; ./tests/run installs it"));
    }
    is_installed
}

impl Redis {
    /// Starts a server and waits until it takes connections.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a server that wants a password.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(password: Option<&str>) -> Self {
        let password = password.map(ToOwned::to_owned);
        let mut redis = Self { port: free_port(), directory: temp_dir().keep(), password, server: None };
        redis.launch();
        redis
    }

    /// Its address.
    pub fn url(&self) -> String {
        let login = self.password.as_ref().map_or(String::new(), |password| format!(":{password}@"));
        format!("redis://{login}127.0.0.1:{}/0", self.port)
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Kills it as a power cut would.
    ///
    /// # Panics
    /// When it cannot be killed.
    pub fn kill9(&mut self) {
        if let Some(Server { mut process, mut janitor }) = self.server.take() {
            process.kill().expect("it runs");
            let _ = process.wait();
            let _ = janitor.kill();
            let _ = janitor.wait();
        }
    }

    /// Starts it again, with what it had written.
    ///
    /// # Panics
    /// When it does not start.
    pub fn launch(&mut self) {
        let mut command = Command::new(PROGRAM);
        command
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &self.port.to_string(),
                "--save",
                "",
                "--daemonize",
                "no",
            ])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"])
            .arg("--dir")
            .arg(&self.directory);
        if let Some(password) = &self.password {
            command.args(["--requirepass", password]);
        }
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("Redis starts");
        let janitor = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -9 \"$1\" 2>/dev/null; rm -rf \"$2\"", "janitor"])
            .arg(process.id().to_string())
            .arg(&self.directory)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        self.server = Some(Server { process, janitor });
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
