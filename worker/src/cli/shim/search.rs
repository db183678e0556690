//! Searches for the package that has the tasks: in a directory, or in those above it.

use std::path::{Path, PathBuf};

use super::cargo;
use super::package::{Package, WORKER, choose};
use crate::cli::exit::{Failure, NO_TASKS, Outcome};

/// Returns the package of the directory given with `--app`.
pub(super) fn at(directory: &Path) -> Outcome<Package> {
    let manifest = if directory.is_file() { directory.to_owned() } else { directory.join("Cargo.toml") };
    if !manifest.is_file() {
        return Err(Failure::new(
            NO_TASKS,
            format!("--app {}: there is no Cargo.toml in that directory", directory.display()),
        ));
    }
    let manifest = absolute(&manifest)?;
    let name = manifest.display();
    choose(&cargo::metadata(&manifest)?, &manifest)?.ok_or_else(|| {
        Failure::new(NO_TASKS, format!("{name} does not depend on `{WORKER}`: `cargo add {WORKER}` adds it"))
    })
}

/// Returns the package of a directory, or else the nearest above it, that depends on `mq-worker`.
pub(super) fn above(directory: &Path) -> Outcome<Package> {
    let start = absolute(directory)?;
    for directory in start.ancestors() {
        let manifest = directory.join("Cargo.toml");
        if manifest.is_file()
            && let Some(package) = choose(&cargo::metadata(&manifest)?, &manifest)?
        {
            return Ok(package);
        }
    }
    Err(Failure::new(
        NO_TASKS,
        format!(
            "no tasks found: {} and the directories above it have no Cargo.toml that depends on `{WORKER}`; go to \
             the crate that has the tasks, name its directory with --app DIR, or run a binary whose main is \
             `{}::main()`",
            start.display(),
            WORKER.replace('-', "_")
        ),
    ))
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize()
        .map_err(|error| Failure::failed(format!("cannot look into {}: {error}", path.display())))
}
