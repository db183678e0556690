//! Writes the package that links the user's tasks. Files are written only if they differ, so that cargo has nothing to do
//! the second time.

use std::io;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::package::{Dependency, Package};

/// Appended to the name of the package with the tasks; its own binaries keep their names.
pub(super) const SUFFIX: &str = crate::app::config::WORKER_SUFFIX;

const MAIN: &str = "\
// Written by mq-worker. It links the tasks of a package and runs them.
use app as _;

fn main() -> std::process::ExitCode {
    mq_worker::main()
}
";

/// The path that could not be read or written, and the error.
type Failed = (PathBuf, io::Error);

/// The name of the binary.
pub(super) fn binary(package: &Package) -> String {
    format!("{}{SUFFIX}", package.name)
}

/// Returns the binary, if it was built before: the newest one, or with `release` only an optimised one.
pub(super) fn built(package: &Package, release: bool) -> Option<PathBuf> {
    let name = format!("{}{}", binary(package), std::env::consts::EXE_SUFFIX);
    let profiles: &[&str] = if release { &["release"] } else { &["debug", "release"] };
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    profiles
        .iter()
        .map(|profile| package.target.join(profile).join(&name))
        .filter(|path| path.is_file())
        .max_by_key(age)
}

/// Writes the files under the target directory of the package and returns the path of the manifest.
pub(super) fn write(package: &Package) -> Result<PathBuf, Failed> {
    let directory = package.target.join("mq-worker").join(&package.name);
    let source = directory.join("src");
    std::fs::create_dir_all(&source).map_err(|error| (source.clone(), error))?;

    let root = package.workspace.join("Cargo.toml");
    let text = std::fs::read_to_string(&root).map_err(|error| (root.clone(), error))?;
    let root: Table = text
        .parse()
        .map_err(|error| (root, io::Error::new(io::ErrorKind::InvalidData, format!("{error}"))))?;

    let path = directory.join("Cargo.toml");
    put(&path, manifest(package, &root).as_bytes())?;
    put(&source.join("main.rs"), MAIN.as_bytes())?;
    copy_lock(package, &directory)?;
    Ok(path)
}

/// Copies the lock file of the package's own workspace, to use the same versions. Cargo adds our package to the copy, so
/// a second, untouched copy beside it shows whether the original has changed.
fn copy_lock(package: &Package, directory: &Path) -> Result<(), Failed> {
    let original = package.workspace.join("Cargo.lock");
    let lock = match std::fs::read(&original) {
        Ok(lock) => lock,
        // Cargo chooses versions then, as it does for the package itself.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err((original, error)),
    };
    let (used, seen) = (directory.join("Cargo.lock"), directory.join("Cargo.lock.original"));
    if used.is_file() && std::fs::read(&seen).is_ok_and(|seen| seen == lock) {
        return Ok(());
    }
    put(&used, &lock)?;
    put(&seen, &lock)
}

/// Returns false if the lock file of the package has only other versions of `mq-worker`.
pub(super) fn locks_version(package: &Package, version: &str) -> bool {
    let lock = std::fs::read_to_string(package.workspace.join("Cargo.lock")).unwrap_or_default();
    let lock: Table = lock.parse().unwrap_or_default();
    let packages = lock.get("package").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let text = |package: &Value, key: &str| package.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
    let mut ours =
        packages.iter().filter(|package| text(package, "name").as_deref() == Some("mq-worker")).peekable();
    ours.peek().is_none() || ours.any(|package| text(package, "version").as_deref() == Some(version))
}

/// Writes a file in one step, unless it has this content already. Two workers may start at once.
fn put(path: &Path, content: &[u8]) -> Result<(), Failed> {
    if std::fs::read(path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let unfinished = path.with_extension(format!("unfinished-{}", std::process::id()));
    std::fs::write(&unfinished, content)
        .and_then(|()| std::fs::rename(&unfinished, path))
        .map_err(|error| (path.to_owned(), error))
}

/// Returns the manifest. It is a workspace of its own, but builds as the package's workspace does: with its profiles,
/// patches and resolver, so that existing build artifacts are reused.
fn manifest(package: &Package, root: &Table) -> String {
    let mut app = Table::new();
    app.insert("package".into(), package.name.clone().into());
    app.insert("path".into(), text(&package.directory));

    let mut dependencies = Table::new();
    dependencies.insert("app".into(), app.into());
    dependencies.insert("mq-worker".into(), dependency(&package.worker).into());

    let mut binary_target = Table::new();
    binary_target.insert("name".into(), binary(package).into());
    binary_target.insert("path".into(), "src/main.rs".into());

    let mut own = Table::new();
    own.insert("name".into(), binary(package).into());
    own.insert("version".into(), "0.0.0".into());
    own.insert("edition".into(), "2021".into());
    own.insert("publish".into(), false.into());

    let mut workspace = Table::new();
    workspace.insert("resolver".into(), resolver(root).into());

    let mut manifest = Table::new();
    manifest.insert("package".into(), own.into());
    manifest.insert("workspace".into(), workspace.into());
    manifest.insert("bin".into(), Value::Array(vec![binary_target.into()]));
    manifest.insert("dependencies".into(), dependencies.into());
    if let Some(profile) = root.get("profile") {
        manifest.insert("profile".into(), profile.clone());
    }
    if let Some(Value::Table(patch)) = root.get("patch") {
        manifest.insert("patch".into(), absolute(patch, &package.workspace).into());
    }
    format!("# Written by mq-worker for the package `{}`.\n\n{manifest}", package.name)
}

/// Returns the package's own dependency on `mq-worker` with the `cli` feature, whatever other features the package
/// enables.
fn dependency(worker: &Dependency) -> Table {
    let mut table = Table::new();
    table.insert("default-features".into(), false.into());
    table.insert("features".into(), Value::Array(vec!["cli".into()]));
    if let Some(path) = &worker.path {
        table.insert("path".into(), text(path));
        return table;
    }
    table.insert("version".into(), worker.req.clone().into());
    let Some(source) = &worker.source else { return table };
    if let Some(repository) = source.strip_prefix("git+") {
        // `git+URL?branch=NAME`; the commit is in the lock file.
        let repository = repository.split('#').next().unwrap_or_default();
        let (url, query) = repository.split_once('?').unwrap_or((repository, ""));
        table.insert("git".into(), url.into());
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            table.insert(name.into(), decoded(value).into());
        }
        return table;
    }
    let crates_io = "registry+https://github.com/rust-lang/crates.io-index";
    if source != crates_io {
        // `sparse+` is a part of the address, `registry+` is not.
        let index = source.strip_prefix("registry+").unwrap_or(source);
        table.insert("registry-index".into(), index.into());
    }
    table
}

/// Undoes the escapes of a URL: a branch may be called `feature/x`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| {
                std::str::from_utf8(tail.get(..2)?).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            })
            .flatten();
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the feature resolver of the workspace; the default depends on the edition of its root.
fn resolver(root: &Table) -> &str {
    let of = |table: &str, key: &str| root.get(table)?.get(key)?.as_str();
    if let Some(resolver) = of("workspace", "resolver").or_else(|| of("package", "resolver")) {
        return resolver;
    }
    let inherited = || root.get("workspace")?.get("package")?.get("edition")?.as_str();
    let is_inherited =
        root.get("package").and_then(|package| package.get("edition")).is_some_and(Value::is_table);
    let edition = if is_inherited { inherited() } else { of("package", "edition") };
    match edition {
        None | Some("2015" | "2018") => "1",
        Some("2021") => "2",
        Some(_) => "3",
    }
}

/// Makes the paths of patches independent of where the manifest is.
fn absolute(patch: &Table, workspace: &Path) -> Table {
    let mut patch = patch.clone();
    for (_, packages) in &mut patch {
        let Value::Table(packages) = packages else { continue };
        for (_, package) in packages {
            if let Some(Value::String(path)) = package.get_mut("path") {
                *path = workspace.join(&*path).to_string_lossy().into_owned();
            }
        }
    }
    patch
}

fn text(path: &Path) -> Value {
    path.to_string_lossy().into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(source: Option<&str>) -> Package {
        let path = source.is_none().then(|| "/src/mq worker".into());
        Package {
            name: "shop".into(),
            directory: "/w/shop".into(),
            workspace: "/w".into(),
            target: "/w/target".into(),
            worker: Dependency {
                source: source.map(Into::into),
                req: "^1.2".into(),
                path,
                ..Dependency::default()
            },
        }
    }

    fn made(package: &Package, root: &str) -> Table {
        manifest(package, &root.parse().expect("TOML")).parse().expect("the manifest is TOML")
    }

    #[test]
    fn the_manifest_links_the_package_under_a_name_of_its_own() {
        let manifest = made(&package(None), "[workspace]\nresolver = '3'");
        assert_eq!(manifest["package"]["name"].as_str(), Some("shop-mq-worker"));
        assert_eq!(manifest["bin"][0]["name"].as_str(), Some("shop-mq-worker"));
        assert_eq!(manifest["workspace"]["resolver"].as_str(), Some("3"));
        let app = &manifest["dependencies"]["app"];
        assert_eq!((app["package"].as_str(), app["path"].as_str()), (Some("shop"), Some("/w/shop")));
        assert!(MAIN.contains("use app as _;"));
    }

    #[test]
    fn the_worker_comes_from_where_the_package_has_it() {
        for (source, expected) in [
            (None, "path = '/src/mq worker'"),
            (Some("registry+https://github.com/rust-lang/crates.io-index"), "version = '^1.2'"),
            (
                Some("sparse+https://registry.example/index/"),
                "version = '^1.2'\nregistry-index = 'sparse+https://registry.example/index/'",
            ),
            (
                Some("registry+https://registry.example/index"),
                "version = '^1.2'\nregistry-index = 'https://registry.example/index'",
            ),
            (
                Some("git+https://host/mq-worker?branch=feature%2Fx"),
                "version = '^1.2'\ngit = 'https://host/mq-worker'\nbranch = 'feature/x'",
            ),
            (Some("git+ssh://git@host/mq-worker"), "version = '^1.2'\ngit = 'ssh://git@host/mq-worker'"),
        ] {
            let manifest = made(&package(source), "");
            let worker = manifest["dependencies"]["mq-worker"].as_table().expect("a table");
            let mut expected: Table = expected.parse().expect("TOML");
            expected.insert("default-features".into(), false.into());
            expected.insert("features".into(), Value::Array(vec!["cli".into()]));
            assert_eq!(*worker, expected, "{source:?}");
        }
    }

    #[test]
    fn profiles_and_patches_are_those_of_the_workspace() {
        let root = "
            [profile.dev]
            debug = false
            [profile.dev.package.'*']
            opt-level = 1
            [patch.crates-io]
            near = { path = 'vendor/near' }
            far = { git = 'https://host/far' }
        ";
        let manifest = made(&package(None), root);
        assert_eq!(manifest["profile"]["dev"]["package"]["*"]["opt-level"].as_integer(), Some(1));
        assert_eq!(manifest["patch"]["crates-io"]["near"]["path"].as_str(), Some("/w/vendor/near"));
        assert_eq!(manifest["patch"]["crates-io"]["far"]["git"].as_str(), Some("https://host/far"));
    }

    #[test]
    fn the_resolver_is_that_of_the_workspace() {
        for (root, expected) in [
            ("", "1"),
            ("[workspace]", "1"),
            ("[package]\nedition = '2018'", "1"),
            ("[package]\nedition = '2021'", "2"),
            ("[package]\nedition = '2024'", "3"),
            ("[package]\nedition = '2024'\nresolver = '2'", "2"),
            ("[workspace]\nresolver = '2'\n[package]\nedition = '2024'", "2"),
            ("[workspace.package]\nedition = '2024'\n[package]\nedition.workspace = true", "3"),
        ] {
            assert_eq!(resolver(&root.parse().expect("TOML")), expected, "{root}");
        }
    }

    #[test]
    fn nothing_is_written_twice() {
        let directory = tempfile::tempdir().expect("a directory");
        let root = directory.path();
        std::fs::write(root.join("Cargo.toml"), "[workspace]").expect("a file");
        std::fs::write(root.join("Cargo.lock"), "version = 4\n").expect("a file");
        let package = Package { workspace: root.to_owned(), target: root.join("target"), ..package(None) };
        let manifest = write(&package).expect("files");
        let lock = manifest.with_file_name("Cargo.lock");
        let written = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified()).expect("a file");
        // Cargo's changes to the copy do not cause another copy.
        std::fs::write(&lock, "changed by cargo").expect("a file");
        let before = (written(&manifest), written(&manifest.with_file_name("src").join("main.rs")));
        write(&package).expect("files");
        let after = (written(&manifest), written(&manifest.with_file_name("src").join("main.rs")));
        assert_eq!(
            (before, std::fs::read_to_string(&lock).expect("a file").as_str()),
            (after, "changed by cargo")
        );
        assert!(locks_version(&package, "1.2.3"), "nothing is known");
        // A change of the original does.
        std::fs::write(root.join("Cargo.lock"), "version = 4\n# new\n").expect("a file");
        write(&package).expect("files");
        assert_eq!(std::fs::read_to_string(&lock).expect("a file"), "version = 4\n# new\n");
        let other = "[[package]]\nname = 'mq-worker'\nversion = '0.9.0'\n";
        std::fs::write(root.join("Cargo.lock"), other).expect("a file");
        assert!(locks_version(&package, "0.9.0") && !locks_version(&package, "1.2.3"));
    }
}
