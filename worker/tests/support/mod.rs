//! Running `mq-worker` as a process, and crates for it to build.
#![allow(dead_code, reason = "each test program uses its part")]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A library with one task.
pub const TASKS: &str = r#"
use mq_worker::__private as p;

p::inventory::submit! {
    p::TaskEntry {
        name: "sell",
        options: p::TaskOptions { queue: Some("counter"), ..p::TaskOptions::DEFAULT },
        parameters: &["what"],
        signature: "what: String",
        doc: " Sells one thing.",
        file: file!(),
        line: line!(),
        start: |_, mut arguments| {
            let what: String = arguments.take("what")?;
            arguments.finish(&["what"])?;
            Ok(p::Work::future(async move { p::write_output(&format!("sold {what}")) }))
        },
    }
}
"#;

/// An empty directory, gone with the value.
pub fn scratch() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// The command, in an environment without settings.
pub struct Program(Command, Option<TempDir>);

/// The `mq-worker` that was built with the tests.
pub fn mq_worker() -> Program {
    program(env!("CARGO_BIN_EXE_mq-worker"))
}

/// A program in an environment without settings, in an empty directory.
pub fn program(path: impl AsRef<OsStr>) -> Program {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MQ_") {
            command.env_remove(name);
        }
    }
    let directory = scratch();
    command.current_dir(directory.path()).stdin(Stdio::null()).env_remove("RUST_LOG").env("NO_COLOR", "1");
    // What these tests build was built for them already, for the most part; nothing is downloaded.
    command
        .env("CARGO_TARGET_DIR", target())
        .env("CARGO_NET_OFFLINE", "true")
        .env("CARGO_TERM_COLOR", "never");
    Program(command, Some(directory))
}

/// The target directory of this very build.
fn target() -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_mq-worker")).parent().expect("a directory");
    profile.parent().expect("a directory").to_owned()
}

/// How a program ended.
#[derive(Debug)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Fails the test with all that was said, unless the program succeeded.
    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }
}

impl Program {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.0.args(arguments);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    pub fn current_dir(mut self, directory: &Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    pub fn stdout(mut self, to: Stdio) -> Self {
        self.0.stdout(to);
        self
    }

    pub fn stderr(mut self, to: Stdio) -> Self {
        self.0.stderr(to);
        self
    }

    pub fn spawn(mut self) -> Child {
        self.0.spawn().expect("the program starts")
    }

    pub fn run(mut self) -> Run {
        let output = self.0.output().expect("the program starts");
        Run {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A crate that depends on this checkout.
pub struct App(TempDir);

impl App {
    pub fn new(name: &str) -> Self {
        let directory = scratch();
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
        let workspace = checkout.parent().expect("the workspace");
        let root = fs::read_to_string(workspace.join("Cargo.toml")).expect("the workspace's manifest");
        // The profiles of the checkout, so that what is built already is used.
        let profiles = root.find("[profile").map_or("", |at| &root[at..]);
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             mq-worker = {{ path = {checkout:?} }}\n\n[workspace]\n\n{profiles}"
        );
        fs::write(directory.path().join("Cargo.toml"), manifest).expect("a manifest");
        fs::copy(workspace.join("Cargo.lock"), directory.path().join("Cargo.lock")).expect("a lock file");
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn library(self, code: &str) -> Self {
        self.file("src/lib.rs", code)
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.write(path, content);
        self
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path().join(path)).expect("a file")
    }
}
