//! Python programs of the tests, run with an interpreter that has pika and Celery.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::shared;

/// The interpreter, set by `tests/run`.
pub const INTERPRETER: &str = "MQ_TEST_PYTHON";

/// What a test with Python needs: an interpreter and a RabbitMQ.
#[derive(Clone, Debug)]
pub struct Python {
    interpreter: PathBuf,
    /// The address of the RabbitMQ.
    pub url: String,
    scripts: PathBuf,
}

/// Returns Python with the scripts of one directory beside the tests; `None`, after printing why once per directory, if the
/// run has no Python or no RabbitMQ.
pub fn python(directory: &str) -> Option<Python> {
    let shared = shared::rabbitmq(directory)?;
    if let Some(interpreter) = std::env::var_os(INTERPRETER).map(PathBuf::from) {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        return Some(Python { interpreter, url: shared.url, scripts });
    }
    static SAID: Mutex<Option<HashSet<String>>> = Mutex::new(None);
    let mut said = SAID.lock().expect("never poisoned");
    if said.get_or_insert_default().insert(directory.to_owned()) {
        // Not `eprintln!`: the test harness would capture it, and a skipped test must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "\n{directory}: tests with Python are LEFT OUT, for {INTERPRETER} is not set; ./tests/run sets it"
        );
    }
    None
}

impl Python {
    /// Returns the interpreter.
    pub fn interpreter(&self) -> &Path {
        &self.interpreter
    }

    /// Returns the command for a script of the directory. It finds the broker in `MQ_BROKER_URL`.
    pub fn script<A: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg(self.scripts.join(name)).args(arguments);
        self.prepare(&mut command);
        command
    }

    /// Returns the command for a module such as `celery`, run in the directory of the scripts.
    pub fn module<A: AsRef<std::ffi::OsStr>>(
        &self,
        name: &str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Command {
        let mut command = Command::new(&self.interpreter);
        command.arg("-m").arg(name).args(arguments);
        self.prepare(&mut command);
        command
    }

    fn prepare(&self, command: &mut Command) {
        command
            .current_dir(&self.scripts)
            .env("MQ_BROKER_URL", &self.url)
            .env("PYTHONUNBUFFERED", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
    }
}
