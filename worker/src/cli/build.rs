//! `mq-worker build --out FILE`: the worker as one binary.

use std::path::{Path, PathBuf};

use super::arguments::{BuildArguments, PackageArguments};
use super::exit::{Failure, Outcome};
use super::{output, shim};

pub(super) fn run(BuildArguments { out, profile, app }: &BuildArguments) -> Outcome {
    let package = PackageArguments { app: app.clone(), ..PackageArguments::default() };
    let built = shim::build(&shim::find(&package)?, profile)?;
    let out = match built.file_name() {
        Some(name) if out.is_dir() => out.join(name),
        _ => out.clone(),
    };
    put(&built, &out).map_err(|error| Failure::failed(format!("cannot write {}: {error}", out.display())))?;
    output::data(out.display())
}

/// Copies into place in one step: a worker running from `out` keeps its file, and half a file is never started.
fn put(built: &Path, out: &Path) -> std::io::Result<()> {
    let mut unfinished = out.as_os_str().to_owned();
    unfinished.push(format!(".{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    let done = std::fs::copy(built, &unfinished).and_then(|_| std::fs::rename(&unfinished, out));
    if done.is_err() {
        // Clean up the attempt; the first error is the one to report.
        let _ = std::fs::remove_file(&unfinished);
    }
    done
}
