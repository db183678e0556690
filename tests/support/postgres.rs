//! A private PostgreSQL server: its own port and directory, both gone when it is dropped, or when this process ends.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use crate::shared::left_out;
use crate::wait::eventually_blocking;
use crate::{free_port, temp_dir};

/// Where Debian keeps the programs of each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A server with one superuser, `postgres`, who needs no password.
#[derive(Debug)]
pub struct Postgres {
    port: u16,
    directory: PathBuf,
    server: Child,
    /// Ends the server as soon as its input closes, even when this process is killed.
    janitor: Child,
}

/// The server that all tests of this program share; `None`, which is said once per file, where PostgreSQL is not installed.
pub fn shared(file: &str) -> Option<String> {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    let Some(programs) = programs() else {
        left_out(file, "tests with PostgreSQL", &format!("{VERSIONS} is empty; ./tests/run installs it"));
        return None;
    };
    Some(SHARED.get_or_init(|| Postgres::start(&programs)).url())
}

fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).ok()?;
    versions
        .filter_map(|version| Some(version.ok()?.path().join("bin")))
        .find(|bin| bin.join("initdb").exists())
}

/// A command of the server, which refuses to run as root.
fn command(program: &Path) -> Command {
    let mut command = match rustix::process::geteuid().is_root() {
        true => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
            command
        }
        false => Command::new(program),
    };
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Postgres {
    fn start(programs: &Path) -> Self {
        let directory = temp_dir().keep();
        if rustix::process::geteuid().is_root() {
            let owned = Command::new("chown").arg("postgres").arg(&directory).status();
            assert!(owned.expect("chown").success(), "the directory belongs to the server");
        }
        let data = directory.join("data");
        let made = command(&programs.join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync", "-D"])
            .arg(&data)
            .status();
        assert!(made.expect("initdb").success(), "initdb makes a database");
        let port = free_port();
        let server = command(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args([
                "-p",
                &port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "max_connections=200",
                "-k",
            ])
            .arg(&directory)
            .process_group(0)
            .spawn()
            .expect("PostgreSQL starts");
        let janitor = Command::new("sh")
            .args(["-c", "cat >/dev/null; kill -INT \"$1\" 2>/dev/null; sleep 1; rm -rf \"$2\"", "janitor"])
            .arg(server.id().to_string())
            .arg(&directory)
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let postgres = Self { port, directory, server, janitor };
        eventually_blocking("PostgreSQL answers", Duration::from_secs(30), || {
            let ready = command(&programs.join("pg_isready"))
                .args(["-h", "127.0.0.1", "-p", &port.to_string()])
                .status();
            ready.is_ok_and(|status| status.success()).then_some(())
        });
        postgres
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = self.janitor.kill();
        let _ = self.janitor.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
