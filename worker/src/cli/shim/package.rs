//! Finding the package that has the tasks: what cargo knows about it, and which one is meant.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cargo;
use crate::cli::exit::{Failure, NO_TASKS, Outcome};

/// The package on which tasks depend.
const WORKER: &str = "mq-worker";

/// A package that has tasks, as far as building a worker for it needs.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Package {
    pub(super) name: String,
    /// Where its manifest is.
    pub(super) directory: PathBuf,
    /// Where the manifest and lock file of its workspace are.
    pub(super) workspace: PathBuf,
    /// Where cargo puts what it builds.
    pub(super) target: PathBuf,
    /// The `mq-worker` that it uses.
    pub(super) worker: Source,
}

/// One package's version and place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Source {
    pub(super) version: String,
    /// Cargo's name for the registry or repository; `None` is a directory.
    pub(super) source: Option<String>,
    pub(super) directory: PathBuf,
}

/// What `cargo metadata` prints, as far as we ask.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    packages: Vec<Described>,
    workspace_members: Vec<String>,
    resolve: Option<Resolve>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Described {
    id: String,
    name: String,
    version: String,
    source: Option<String>,
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

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    dependencies: Vec<String>,
}

/// The package of a directory that somebody named.
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

/// The package of a directory, or else the nearest above it, that depends on us.
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

/// The package that a manifest means: its own, or, where it is that of a workspace, the one member that has
/// tasks. `None` when none depends on us.
fn choose(metadata: &Metadata, manifest: &Path) -> Outcome<Option<Package>> {
    let here = |package: &&Described| same(&package.manifest_path, manifest);
    if let Some(own) = metadata.packages.iter().find(here)
        && own.depends_on_us()
    {
        return own.library(metadata, manifest).map(Some);
    }
    if !same(&metadata.workspace_root.join("Cargo.toml"), manifest) {
        return Ok(None);
    }
    let is_member = |package: &&Described| metadata.workspace_members.contains(&package.id);
    let users = metadata.packages.iter().filter(is_member).filter(|package| package.depends_on_us());
    let (libraries, others): (Vec<&Described>, Vec<&Described>) =
        users.partition(|package| package.has_library());
    match (libraries.as_slice(), others.as_slice()) {
        ([], []) => Ok(None),
        ([package], _) | ([], [package]) => package.library(metadata, manifest).map(Some),
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

/// True when both are the same file, by whatever name.
fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

impl Described {
    fn depends_on_us(&self) -> bool {
        self.dependencies.iter().any(|dependency| dependency.name == WORKER && dependency.kind.is_none())
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

    /// The package, if another can link it.
    fn library(&self, metadata: &Metadata, manifest: &Path) -> Outcome<Package> {
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
        let nodes = metadata.resolve.as_ref().map_or(&[][..], |resolve| &resolve.nodes);
        let depends_on = |package: &&Described| {
            package.name == WORKER
                && nodes.iter().any(|node| node.id == self.id && node.dependencies.contains(&package.id))
        };
        let worker = metadata.packages.iter().find(depends_on).ok_or_else(|| {
            Failure::new(
                NO_TASKS,
                format!(
                    "{} depends on `{WORKER}` only with a feature that is off by default: workers are built with \
                     the default features",
                    manifest.display()
                ),
            )
        })?;
        Ok(Package {
            name: self.name.clone(),
            directory: self.directory(),
            workspace: metadata.workspace_root.clone(),
            target: metadata.target_directory.clone(),
            worker: Source {
                version: worker.version.clone(),
                source: worker.source.clone(),
                directory: worker.directory(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace at `/w` whose members are given as name, crate type, and the kind of the dependency on us.
    fn workspace(members: &[(&str, &str, Option<Option<&str>>)]) -> Metadata {
        let mut packages = vec![json!({
            "id": "us", "name": "mq-worker", "version": "9.8.7", "manifest_path": "/us/Cargo.toml",
            "source": "registry+https://github.com/rust-lang/crates.io-index",
            "targets": [], "dependencies": [],
        })];
        let mut nodes = Vec::new();
        for (name, kind, dependency) in members {
            let dependencies: Vec<_> = dependency
                .iter()
                .map(|kind| json!({ "name": "mq-worker", "rename": "mq", "kind": kind }))
                .collect();
            let directory = if *name == "root" { "/w".to_owned() } else { format!("/w/{name}") };
            packages.push(json!({
                "id": name, "name": name, "version": "0.1.0", "source": null,
                "manifest_path": format!("{directory}/Cargo.toml"),
                "targets": [{ "name": name, "kind": [kind], "crate_types": [kind] }],
                "dependencies": dependencies,
            }));
            let uses = if dependency.is_some() { vec!["us"] } else { vec![] };
            nodes.push(json!({ "id": name, "dependencies": uses }));
        }
        let ids: Vec<_> = members.iter().map(|(name, ..)| name).collect();
        serde_json::from_value(json!({
            "packages": packages, "workspace_members": ids, "resolve": { "nodes": nodes },
            "workspace_root": "/w", "target_directory": "/w/target",
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
        assert_eq!(
            (package.worker.version.as_str(), package.target.as_path()),
            ("9.8.7", Path::new("/w/target"))
        );
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
