//! Lets an installed `mq-worker` run the tasks of a user's crate: it writes a tiny package that links the crate, builds
//! it with cargo, and replaces its own process with it.

mod cargo;
mod files;
mod package;
mod search;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use super::arguments::PackageArguments;
use super::exit::{Failure, NO_TASKS, Outcome};
use crate::app::Config;
use package::Package;

/// The variable that marks a worker as built here; it holds the path of its file. Without it, a crate that has no tasks
/// would make us build and start workers endlessly.
const MARK: &str = "MQ_SHIM";

/// Builds the worker of the crate and replaces this process with it, with the same arguments. Returns only on failure,
/// or when the worker has exited.
///
/// `config` is the configuration as this process reads it: a mistake is reported before anything is built, unless the
/// crate has another version of `mq-worker`, which may accept it.
pub(super) fn exec_worker(arguments: &PackageArguments, config: Outcome<Config>) -> Outcome {
    if let Some(name) = built_for() {
        return Err(Failure::new(
            NO_TASKS,
            format!(
                "package `{name}` has no tasks: put #[mq_worker::task] above a function in its library (src/lib.rs, \
                 or a module that it names)"
            ),
        ));
    }
    let found = find(arguments);
    match (config, &found) {
        (Err(_), Ok(package)) if !files::locks_version(package, env!("CARGO_PKG_VERSION")) => {}
        (config, _) => drop(config?),
    }
    let worker = build(&found?, if arguments.release { "release" } else { "dev" })?;
    let mut command = Command::new(&worker);
    command.args(std::env::args_os().skip(1)).env(MARK, &worker);
    exec(command, &worker)
}

/// True if there is a crate whose worker can be built, and this process is not that worker.
pub(super) fn has_crate(arguments: &PackageArguments) -> bool {
    built_for().is_none() && (arguments.app.is_some() || find(arguments).is_ok())
}

/// Finds the package that has the tasks.
pub(super) fn find(arguments: &PackageArguments) -> Outcome<Package> {
    match &arguments.app {
        Some(directory) => search::at(directory),
        None => search::above(Path::new(".")),
    }
}

/// Builds the worker of a package with a cargo profile and returns its file.
pub(super) fn build(package: &Package, profile: &str) -> Outcome<PathBuf> {
    let manifest = files::write(package).map_err(|(path, error)| {
        Failure::failed(format!("cannot write {}, which the worker is built from: {error}", path.display()))
    })?;
    cargo::build(package, &manifest, profile)
}

/// Returns the queues of the crate's tasks by task name, as reported by its worker. Only a worker that was built before
/// is asked, since building takes minutes.
pub(super) fn queues_of_tasks(arguments: &PackageArguments) -> Option<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Task {
        name: String,
        queue: String,
    }
    let worker = files::built(&find(arguments).ok()?, arguments.release)?;
    let mut asked = Command::new(&worker);
    asked.args(["tasks", "--json"]).env(MARK, &worker).stdin(Stdio::null()).stderr(Stdio::null());
    let tasks: Vec<Task> = serde_json::from_slice(&asked.output().ok()?.stdout).ok()?;
    // A call that goes to an exchange has no single queue.
    let is_queue = |task: &Task| !task.queue.starts_with('(') && !task.queue.contains('/');
    Some(tasks.into_iter().filter(is_queue).map(|task| (task.name, task.queue)).collect())
}

/// The package that this process was built for, if it was built here.
fn built_for() -> Option<String> {
    let mark = PathBuf::from(std::env::var_os(MARK)?);
    // A task may start another `mq-worker`, which inherits the variable but was not built here.
    let same = std::env::current_exe().ok()?.file_name() == mark.file_name();
    let name = mark.file_stem()?.to_str()?;
    same.then(|| name.strip_suffix(files::SUFFIX).unwrap_or(name).to_owned())
}

#[cfg(unix)]
fn exec(mut command: Command, worker: &Path) -> Outcome {
    use std::os::unix::process::CommandExt;
    let error = command.exec();
    Err(Failure::failed(format!("cannot start {}: {error}", worker.display())))
}

#[cfg(not(unix))]
fn exec(mut command: Command, worker: &Path) -> Outcome {
    // Ctrl-C reaches the worker too; it decides when to stop, and we wait for it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut child = command
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start {}: {error}", worker.display())))?;
        let ended = tokio::task::spawn_blocking(move || child.wait());
        let ignored = async {
            while tokio::signal::ctrl_c().await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let status = tokio::select! {
            status = ended => status,
            () = ignored => unreachable!("it waits for ever"),
        };
        let status =
            status.map_err(|error| Failure::failed(format!("cannot wait for the worker: {error}")))??;
        match status.code() {
            Some(0) => Ok(()),
            code => Err(Failure::silent(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
        }
    })
}
