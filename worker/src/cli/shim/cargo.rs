//! Runs cargo.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde::Deserialize;

use super::files;
use super::package::{Metadata, Package};
use crate::cli::exit::{FAILED, Failure, Outcome};

/// Cargo's exit code for a failed build.
const DOES_NOT_COMPILE: u8 = 101;

/// Returns cargo's metadata about the package of a manifest and its workspace.
pub(super) fn metadata(manifest: &Path) -> Outcome<Metadata> {
    let directory = manifest.parent().unwrap_or(Path::new("."));
    let mut command = cargo(directory);
    command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
    let mut child = start(command)?;
    let mut text = Vec::new();
    child.stdout.take().expect("it is piped").read_to_end(&mut text)?;
    let status = ended(child)?;
    if !status.success() {
        return Err(Failure::new(
            code(status),
            format!("cargo cannot read {}; see its message above", manifest.display()),
        ));
    }
    serde_json::from_slice(&text)
        .map_err(|error| Failure::failed(format!("cannot read what `cargo metadata` printed: {error}")))
}

/// Builds the package that links the user's tasks and returns the binary. Cargo's progress is shown.
pub(super) fn build(package: &Package, manifest: &Path, profile: &str) -> Outcome<PathBuf> {
    // Run in the directory of the package, so that its `.cargo/config.toml` and its toolchain file apply.
    let mut command = cargo(&package.directory);
    command.args(["build", "--message-format", "json-render-diagnostics"]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(&package.target);
    command.args(["--profile", profile]);
    let mut child = start(command)?;
    let name = files::binary(package);
    let mut binary = None;
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        if let Ok(Message { target: Some(target), executable: Some(file) }) = serde_json::from_str(&line?)
            && target.name == name
        {
            binary = Some(file);
        }
    }
    let status = ended(child)?;
    match binary {
        Some(binary) if status.success() => Ok(binary),
        _ => {
            let name = &package.name;
            Err(Failure::new(
                code(status),
                format!("the worker of `{name}` cannot be built; see cargo's message above"),
            ))
        }
    }
}

/// One line of cargo's JSON output, as far as we need it.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn cargo(directory: &Path) -> Command {
    // Set by cargo if it has started us: use the same one.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(directory).stdin(Stdio::null()).stdout(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_another_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Matches the variables that `cargo run` sets about its package. Build scripts that track them, such as that of `ring`,
/// would recompile half of the dependencies for a worker that is started both with and without `cargo run`.
fn is_of_another_package(variable: &str) -> bool {
    let alone = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| variable.starts_with(prefix))
        || alone.contains(&variable)
}

fn start(mut command: Command) -> Outcome<Child> {
    command.spawn().map_err(|error| {
        let program = command.get_program().to_string_lossy().into_owned();
        if error.kind() == ErrorKind::NotFound {
            return Failure::failed(format!(
                "`{program}` is not installed here, and the tasks must be built with it: where it is, `mq-worker \
                 build --out FILE` makes a worker that runs without it"
            ));
        }
        Failure::failed(format!("cannot start `{program}`: {error}"))
    })
}

fn ended(mut child: Child) -> Outcome<ExitStatus> {
    child.wait().map_err(|error| Failure::failed(format!("cannot wait for cargo: {error}")))
}

fn code(status: ExitStatus) -> u8 {
    match status.code() {
        Some(0) => FAILED,
        Some(code) => u8::try_from(code).unwrap_or(DOES_NOT_COMPILE),
        None => DOES_NOT_COMPILE,
    }
}
