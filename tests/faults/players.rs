//! The processes of a run: workers and producers, which are this program started again, and the signals sent to them.

use std::fs::OpenOptions;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use support::Proxy;

use crate::log::{Event, Log};

/// The environment variable that sets the role of a process.
pub(crate) const ROLE: &str = "FAULTS_ROLE";
/// The role of a scheduler, which is `mq-worker beat`.
pub(crate) const SCHEDULER: &str = "scheduler";
/// Longer than any grace period and the cleanup after it.
const STOPS_WITHIN: Duration = Duration::from_secs(25);
/// Long enough for a process to start on a busy machine.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// A process and its successors under the same name.
pub(crate) struct Player {
    pub(crate) name: String,
    settings: Vec<(String, String)>,
    directory: PathBuf,
    pub(crate) proxy: Option<Proxy>,
    child: Mutex<Option<Child>>,
    /// True if it exits by itself once everything is sent.
    pub(crate) ends: bool,
}

impl Player {
    /// Creates a player without starting it.
    pub(crate) fn new(
        name: String,
        directory: &Path,
        proxy: Option<Proxy>,
        settings: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Player {
        let settings: Vec<_> = settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let ends = settings.iter().any(|(name, _)| name == "FAULTS_SCRIPT");
        Player { name, settings, directory: directory.to_owned(), proxy, child: Mutex::default(), ends }
    }

    /// Starts a process under this name unless one is running.
    pub(crate) fn spawn(&self) {
        let mut child = self.lock();
        // The supervisor may have started one already.
        if child.is_some() {
            return;
        }
        let program = std::env::current_exe().expect("this program has a path");
        let said =
            OpenOptions::new().create(true).append(true).open(self.said()).expect("a file for what it says");
        let also = said.try_clone().expect("a second handle");
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("MQ_") || name.starts_with("FAULTS_")) {
                command.env_remove(name);
            }
        }
        if self.settings.iter().any(|(name, value)| name == ROLE && value == SCHEDULER) {
            command.arg("beat");
        }
        command
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .env("FAULTS_NAME", &self.name)
            .env("FAULTS_LOG", self.directory.join("log"))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(said)
            .stderr(also)
            // Ctrl-C at the terminal must reach only the control process.
            .process_group(0);
        *child = Some(command.spawn().expect("this program can be started again"));
    }

    /// Returns the file with its output.
    pub(crate) fn said(&self) -> PathBuf {
        self.directory.join(format!("{}.out", self.name))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("never poisoned")
    }

    /// Returns its process id while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.lock().as_ref().map(Child::id)
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &*self.lock() {
            // It may just have exited by itself.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Sends SIGKILL and waits until it is gone.
    pub(crate) fn kill9(&self) {
        if let Some(mut child) = self.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGSTOP or SIGCONT.
    pub(crate) fn pause(&self, on: bool) {
        self.signal(if on { Signal::STOP } else { Signal::CONT });
    }

    /// Waits until it handles SIGTERM. In its first milliseconds any program dies of the signal, which looks the same as one
    /// that never handles it.
    pub(crate) fn await_listening(&self) {
        let deadline = Instant::now() + LISTENS_WITHIN;
        while Instant::now() < deadline && self.pid().is_some_and(|pid| !listens(pid)) {
            thread::sleep(PAUSE);
        }
    }

    /// Sends SIGTERM and waits for the exit; `None` if it did not exit in time and was killed.
    pub(crate) fn terminate(&self) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(STOPS_WITHIN)
    }

    /// Waits for the exit; `None` if it did not exit in time and was killed.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        // Take it out, so that the supervisor does not restart it.
        let mut child = self.lock().take()?;
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = child.try_wait() {
                return Some(status);
            }
            thread::sleep(PAUSE);
        }
        let _ = child.kill();
        let _ = child.wait();
        None
    }

    /// Stops it with SIGTERM and logs an abnormal exit.
    pub(crate) fn terminate_well(&self, log: &Log) {
        self.await_listening();
        let Some(pid) = self.pid() else { return };
        let name = format!("{}/{pid}", self.name);
        match self.terminate() {
            Some(status) if status.success() => {}
            Some(status) => log.write(Event::Exit { name, code: words(status) }),
            None => log.write(Event::Exit { name, code: "SIGKILL-after-it-did-not-stop".into() }),
        }
    }

    /// Restarts it if it exited by itself, and logs that; the checker knows which tasks crash it.
    pub(crate) fn supervise(&self, log: &Log) {
        let ended = {
            let mut child = self.lock();
            let ended = child.as_mut().and_then(|child| Some((child.id(), child.try_wait().ok()??)));
            if ended.is_some() {
                *child = None;
            }
            ended
        };
        let Some((pid, status)) = ended else { return };
        if self.ends && status.success() {
            return;
        }
        log.write(Event::Exit { name: format!("{}/{pid}", self.name), code: words(status) });
        self.spawn();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Returns true if this process catches SIGTERM.
fn listens(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

fn words(status: ExitStatus) -> String {
    status.to_string().replace(' ', "-")
}
