//! A server process of a test that is stopped with it, and its directory.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    /// Kills the server when its input closes, even if this process is killed.
    janitor: Child,
}

impl Server {
    /// Starts it; `directory` is removed if this process is killed.
    pub(crate) fn start(command: &mut Command, directory: &Path) -> Self {
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the server starts");
        let janitor = Command::new("sh")
            .args([
                "-c",
                "cat >/dev/null; kill -QUIT \"$1\"; sleep 1; kill -9 \"$1\"; rm -rf \"$2\"",
                "janitor",
            ])
            .arg(process.id().to_string())
            .arg(directory)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        Self { process, janitor }
    }

    /// Stops it with a signal and waits for it to exit.
    pub(crate) fn end(mut self, signal: Signal) {
        let _ = kill_process(Pid::from_child(&self.process), signal);
        let _ = self.process.wait();
        let _ = self.janitor.kill();
        let _ = self.janitor.wait();
    }
}

/// Returns a command that runs as another user if this process is root, as some servers refuse to run as root.
pub(crate) fn unprivileged(program: &Path) -> Command {
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

/// Gives files to the user of [`unprivileged`].
pub(crate) fn give_away(directory: &Path) {
    if rustix::process::geteuid().is_root() {
        let owned = Command::new("chown").args(["-R", "postgres"]).arg(directory).status();
        assert!(owned.expect("chown").success(), "the directory belongs to the server");
    }
}
