//! The package that has the tasks: what cargo reports about it, and how it is chosen from a workspace.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cli::exit::{Failure, NO_TASKS, Outcome};

/// The package on which tasks depend.
pub(super) const WORKER: &str = "mq-worker";

/// A package that has tasks, with what is needed to build a worker for it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Package {
    pub(super) name: String,
    /// Where its manifest is.
    pub(super) directory: PathBuf,
    /// Where the manifest and lock file of its workspace are.
    pub(super) workspace: PathBuf,
    /// Where cargo puts what it builds.
    pub(super) target: PathBuf,
    /// Its dependency on `mq-worker`.
    pub(super) worker: Dependency,
}

/// The output of `cargo metadata --no-deps`, as far as we need it. Without `--no-deps` cargo would download the
/// dependencies of all platforms, and a start without a network would fail where `cargo build` does not.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Described>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Described {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
    crate_types: Vec<String>,
}

/// A dependency of a package. Declared in the same way, with the same lock file, it resolves to the same package.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Dependency {
    pub(super) name: String,
    pub(super) kind: Option<String>,
    /// Cargo's name for the registry or repository; `None` is a directory.
    pub(super) source: Option<String>,
    /// The version requirement.
    pub(super) req: String,
    pub(super) path: Option<PathBuf>,
}

/// Returns the package for a manifest: its own, or, if it is that of a workspace, the only member that has tasks.
/// `None` if none depends on `mq-worker`.
pub(super) fn choose(metadata: &Metadata, manifest: &Path) -> Outcome<Option<Package>> {
    let here = |package: &&Described| same(&package.manifest_path, manifest);
    if let Some(own) = metadata.packages.iter().find(here)
        && own.worker().is_some()
    {
        return own.library(metadata).map(Some);
    }
    if !same(&metadata.workspace_root.join("Cargo.toml"), manifest) {
        return Ok(None);
    }
    let users = metadata.packages.iter().filter(|package| package.worker().is_some());
    let (libraries, others): (Vec<&Described>, Vec<&Described>) =
        users.partition(|package| package.has_library());
    match (libraries.as_slice(), others.as_slice()) {
        ([], []) => Ok(None),
        ([package], _) | ([], [package]) => package.library(metadata).map(Some),
        (several, _) => {
            let several = if several.is_empty() { &others } else { several };
            let names: Vec<&str> = several.iter().map(|package| package.name.as_str()).collect();
            Err(Failure::new(
                NO_TASKS,
                format!(
                    "several packages of this workspace use `{WORKER}` ({}): go to the directory of the one that \
                     you mean, or name it with --app DIR",
                    names.join(", ")
                ),
            ))
        }
    }
}

/// Returns whether both paths are the same file.
fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Described {
    /// Its dependency on `mq-worker`; one of its tests or its build script does not count.
    fn worker(&self) -> Option<&Dependency> {
        self.dependencies.iter().find(|dependency| dependency.name == WORKER && dependency.kind.is_none())
    }

    fn has_library(&self) -> bool {
        let linkable = ["lib", "rlib", "dylib"];
        self.targets
            .iter()
            .any(|target| target.crate_types.iter().any(|kind| linkable.contains(&kind.as_str())))
    }

    fn directory(&self) -> PathBuf {
        self.manifest_path.parent().unwrap_or(Path::new("/")).to_owned()
    }

    /// Returns the package, if another can link it.
    fn library(&self, metadata: &Metadata) -> Outcome<Package> {
        if !self.has_library() {
            let is_binary = |target: &&Target| target.kind.iter().any(|kind| kind == "bin");
            let run = match self.targets.iter().find(is_binary) {
                Some(binary) => format!("`cargo run --bin {} -- --queues …`", binary.name),
                None => "`cargo run -- --queues …`".into(),
            };
            return Err(Failure::new(
                NO_TASKS,
                format!(
                    "package `{}` has only a binary, and tasks in a binary cannot be linked into a worker: move them \
                     to src/lib.rs, or let the binary be the worker with `fn main() -> std::process::ExitCode {{ \
                     mq_worker::main() }}` and start it with {run}",
                    self.name
                ),
            ));
        }
        let worker = self.worker().cloned().unwrap_or_default();
        Ok(Package {
            name: self.name.clone(),
            directory: self.directory(),
            workspace: metadata.workspace_root.clone(),
            target: metadata.target_directory.clone(),
            worker,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace at `/w` whose members are given as name, crate type, and the kind of the dependency on us.
    fn workspace(members: &[(&str, &str, Option<Option<&str>>)]) -> Metadata {
        let packages: Vec<_> = members
            .iter()
            .map(|(name, kind, dependency)| {
                let dependency = dependency.map(|kind| {
                    json!({ "name": "mq-worker", "rename": "mq", "kind": kind, "req": "^9.8", "source": "registry+x" })
                });
                let directory = if *name == "root" { "/w".to_owned() } else { format!("/w/{name}") };
                json!({
                    "name": name,
                    "manifest_path": format!("{directory}/Cargo.toml"),
                    "targets": [{ "name": name, "kind": [kind], "crate_types": [kind] }],
                    "dependencies": dependency.into_iter().collect::<Vec<_>>(),
                })
            })
            .collect();
        serde_json::from_value(json!({
            "packages": packages, "workspace_root": "/w", "target_directory": "/w/target",
        }))
        .expect("metadata")
    }

    fn chosen(metadata: &Metadata, manifest: &str) -> Result<Option<String>, String> {
        choose(metadata, Path::new(manifest))
            .map(|package| package.map(|package| package.name))
            .map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn a_package_that_uses_us_is_meant() {
        let metadata = workspace(&[("app", "lib", Some(None)), ("other", "lib", None)]);
        let package =
            choose(&metadata, Path::new("/w/app/Cargo.toml")).expect("a choice").expect("a package");
        assert_eq!((package.name.as_str(), package.directory.as_path()), ("app", Path::new("/w/app")));
        assert_eq!((package.worker.req.as_str(), package.target.as_path()), ("^9.8", Path::new("/w/target")));
        assert_eq!(chosen(&metadata, "/w/other/Cargo.toml"), Ok(None));
    }

    #[test]
    fn a_workspace_means_its_one_member_that_has_tasks() {
        let one =
            workspace(&[("app", "lib", Some(None)), ("tool", "bin", Some(None)), ("other", "lib", None)]);
        assert_eq!(chosen(&one, "/w/Cargo.toml"), Ok(Some("app".into())));
        let root = workspace(&[("root", "lib", None), ("app", "lib", Some(None))]);
        assert_eq!(chosen(&root, "/w/Cargo.toml"), Ok(Some("app".into())));
        let none = workspace(&[("other", "lib", None)]);
        assert_eq!(chosen(&none, "/w/Cargo.toml"), Ok(None));
        let several = workspace(&[("app", "lib", Some(None)), ("shop", "lib", Some(None))]);
        let error = chosen(&several, "/w/Cargo.toml").expect_err("which?");
        assert!(error.contains("(app, shop)") && error.contains("--app DIR"), "{error}");
    }

    #[test]
    fn a_dependency_of_tests_does_not_count() {
        let metadata = workspace(&[("app", "lib", Some(Some("dev")))]);
        assert_eq!(chosen(&metadata, "/w/app/Cargo.toml"), Ok(None));
    }

    #[test]
    fn a_package_without_a_library_is_told_what_to_do() {
        let metadata = workspace(&[("app", "bin", Some(None))]);
        for manifest in ["/w/app/Cargo.toml", "/w/Cargo.toml"] {
            let error = chosen(&metadata, manifest).expect_err("a binary");
            assert!(error.contains("src/lib.rs") && error.contains("cargo run --bin app"), "{error}");
        }
    }
}
