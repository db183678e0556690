//! Runs `mq-worker` as a process, and creates crates for it to build.
#![allow(dead_code, reason = "each test program uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A library with a few tasks.
pub(crate) const TASKS: &str = r#"
use mq_worker::{TaskError, task};

/// Sells one thing.
#[task(queue = "counter")]
pub async fn sell(what: String) -> String {
    format!("sold {what}")
}

/// Never works.
#[task(queue = "counter")]
pub async fn refuse(what: String) -> Result<(), TaskError> {
    Err(TaskError::reject(format!("no {what} today")))
}

/// Ships one thing, in a process of its own.
#[cfg(unix)]
#[task(queue = "counter", isolate)]
pub fn ship(what: String) -> String {
    format!("shipped {what}")
}

/// Keeps a thread.
#[task(queue = "counter")]
pub fn nap(millis: u64) -> String {
    std::thread::sleep(std::time::Duration::from_millis(millis));
    "slept".into()
}
"#;

/// Returns an empty directory that is removed on drop.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Creates a database, as the first producer or worker does: operating commands never create one.
#[cfg(feature = "sqlite")]
pub(crate) fn make_database(path: &Path) {
    let config = mq_worker::Config {
        broker_url: format!("sqlite:{}", path.display()).parse().expect("a URL"),
        ..mq_worker::Config::default()
    };
    let app = mq_worker::App::new(config).expect("a good configuration");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        app.broker().await.expect("the file is made");
        app.close().await;
    });
}

/// A command in an environment without settings.
pub(crate) struct Program(Command, Option<TempDir>);

/// Returns the `mq-worker` that was built with the tests.
pub(crate) fn mq_worker() -> Program {
    program(env!("CARGO_BIN_EXE_mq-worker"))
}

/// Returns a program in an environment without settings, in an empty directory.
pub(crate) fn program(path: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        // If build scripts saw cargo's variables for these tests, half of the dependencies would be rebuilt.
        let ours = ["MQ_", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if ours.iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let directory = scratch();
    command.current_dir(directory.path()).stdin(Stdio::null()).env_remove("RUST_LOG").env("NO_COLOR", "1");
    // Most of what these tests build exists in this target directory; nothing is downloaded.
    command
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TERM_COLOR", "never");
    Program(command, Some(directory))
}

/// Returns the target directory of this build.
fn target() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_mq-worker")).parent().expect("a directory");
    profile.parent().expect("a directory").to_owned()
}

/// The result of a program.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Run {
    /// Fails the test with all output unless the program succeeded.
    #[track_caller]
    pub(crate) fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }
}

impl Program {
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    pub(crate) fn stdout(mut self, to: Stdio) -> Self {
        self.0.stdout(to);
        self
    }

    pub(crate) fn stderr(mut self, to: Stdio) -> Self {
        self.0.stderr(to);
        self
    }

    pub(crate) fn spawn(mut self) -> Child {
        self.0.spawn().expect("the program starts")
    }

    pub(crate) fn run(mut self) -> Run {
        let output = self.0.output().expect("the program starts");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A running worker, which is killed if the test ends first.
pub(crate) struct Worker {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it and collects its stderr.
    pub(crate) fn start(program: Program) -> Self {
        let mut child = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let mut log = written.lock().expect("never poisoned");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, log, reader: Some(reader) }
    }

    /// Returns its stderr so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("never poisoned").clone()
    }

    /// Waits until its stderr contains a text.
    #[track_caller]
    pub(crate) fn says(&self, text: &str) {
        eventually(&format!("`{text}` in the log"), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        });
    }

    /// Sends `TERM` or another signal.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().expect("`kill` is there");
        assert!(status.success(), "no signal {name}");
    }

    /// Waits for it to exit; returns the exit code and its stderr.
    #[track_caller]
    pub(crate) fn ends(mut self) -> (Option<i32>, String) {
        let status = eventually("the end of the worker", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(self.log()),
            Err(error) => Err(error.to_string()),
        });
        self.reader.take().expect("it ends once").join().expect("reading does not fail");
        (status.code(), self.log())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until the answer is `Ok`; long enough for a machine that is busy building.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(last) if Instant::now() > deadline => panic!("{what} did not come: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A crate that depends on this checkout. It is not removed, so that the next test run need not rebuild it.
pub(crate) struct App(PathBuf);

impl App {
    pub(crate) fn new(name: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = checkout.parent().expect("the workspace");
        let root = fs::read_to_string(workspace.join("Cargo.toml")).expect("the workspace's manifest");
        // The profiles of the checkout, so that existing artifacts are reused.
        let profiles = root.find("[profile").map_or("", |at| &root[at..]);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             mq-worker = {{ path = {checkout:?} }}\n\n[workspace]\n\n{profiles}"
        );
        fs::write(directory.join("Cargo.toml"), manifest).expect("a manifest");
        fs::copy(workspace.join("Cargo.lock"), directory.join("Cargo.lock")).expect("a lock file");
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn library(self, code: &str) -> Self {
        self.file("src/lib.rs", code)
    }

    pub(crate) fn file(self, path: &str, content: &str) -> Self {
        self.write(path, content);
        self
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).expect("a file")
    }
}
