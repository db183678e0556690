//! An application's home: the directory of its default database, and its `mq-worker.toml`.
//!
//! All programs of one cargo workspace must share one database, wherever in the workspace each of them is started.
//! Producers need it too, so the manifests are read here: `cargo` need not be installed.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::file;
use crate::connection::BrokerUrl;

/// The name of the default database.
const DATABASE: &str = "mq-worker.db";
/// The name of the default history.
const HISTORY: &str = "mq-worker-history.db";

/// An application's home.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Home {
    /// The directory of the default database: that of the file, if `MQ_CONFIG` names it; else the root of the cargo
    /// workspace, or the directory of the `mq-worker.toml` where that is further up; else, outside of cargo, the
    /// directory of the `mq-worker.toml`; else the directory in which the program was started.
    pub(crate) directory: PathBuf,
    /// The configuration file: the one that `MQ_CONFIG` names, else the nearest `mq-worker.toml` in the start directory
    /// or above it.
    pub(crate) file: Option<PathBuf>,
}

impl Home {
    /// The home of a program that is started in a directory.
    pub(super) fn of(start: &Path) -> Self {
        let ways = start_directories(start);
        let file = ways.iter().find_map(|way| nearest(way, file::NAME));
        let roots: Vec<Root> = ways.iter().filter_map(|way| cargo_root(way)).collect();
        // A member of a workspace may be reached through a link: only one of the two paths up passes the root.
        let root = roots.iter().find(|root| root.is_workspace).or(roots.first());
        let root = root.map(|root| canonical(&root.directory));
        let beside = file.as_deref().and_then(Path::parent).map(canonical);
        let directory = match (root, beside) {
            (Some(root), Some(beside)) if root.starts_with(&beside) => beside,
            (Some(root), _) => root,
            (None, Some(beside)) => beside,
            (None, None) => ways.into_iter().next().unwrap_or_default(),
        };
        Self { directory, file }
    }

    /// The home of a program whose configuration file was named.
    pub(super) fn named(file: PathBuf) -> Self {
        Self { directory: canonical(file.parent().unwrap_or(Path::new("."))), file: Some(file) }
    }

    /// The file of the default history.
    pub(super) fn history(&self) -> PathBuf {
        self.directory.join(HISTORY)
    }

    /// The address of the default database.
    pub(super) fn database(&self) -> BrokerUrl {
        let url: BrokerUrl = format!("sqlite:{DATABASE}").parse().expect("the default is a URL");
        url.relative_to(&self.directory)
    }
}

/// The physical directory, followed by the one that the shell shows if links make them differ.
fn start_directories(start: &Path) -> Vec<PathBuf> {
    let physical = canonical(start);
    let shown = std::env::var_os("PWD").map(PathBuf::from).map(|shown| shown.join(start));
    // A parent process may have left its own directory in the variable.
    let shown = shown.filter(|shown| *shown != physical && canonical(shown) == physical);
    std::iter::once(physical).chain(shown).collect()
}

fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| std::path::absolute(path).unwrap_or_else(|_| path.to_owned()))
}

fn nearest(start: &Path, name: &str) -> Option<PathBuf> {
    start.ancestors().map(|directory| directory.join(name)).find(|path| path.exists())
}

/// The root of a cargo workspace, or of a package outside any workspace.
struct Root {
    directory: PathBuf,
    is_workspace: bool,
}

/// Finds the root as cargo does: from the nearest manifest upwards.
fn cargo_root(start: &Path) -> Option<Root> {
    let mut manifests = start.ancestors().filter_map(Manifest::in_directory);
    let own = manifests.next()?;
    if own.is_root() {
        return Some(Root { directory: own.directory.to_owned(), is_workspace: true });
    }
    if let Some(directory) = own.pointer() {
        return Some(Root { directory, is_workspace: true });
    }
    let above = manifests.find_map(|manifest| {
        let root = manifest.is_root() && !manifest.excludes(own.directory);
        manifest.pointer().or_else(|| root.then(|| manifest.directory.to_owned()))
    });
    Some(match above {
        Some(directory) => Root { directory, is_workspace: true },
        None => Root { directory: own.directory.to_owned(), is_workspace: false },
    })
}

/// The workspace parts of a `Cargo.toml`. An invalid one counts as a package: cargo will explain the mistake.
struct Manifest<'a> {
    directory: &'a Path,
    content: Table,
}

impl<'a> Manifest<'a> {
    fn in_directory(directory: &'a Path) -> Option<Self> {
        let path = directory.join("Cargo.toml");
        if !path.is_file() {
            return None;
        }
        let text = std::fs::read_to_string(path).unwrap_or_default();
        Some(Self { directory, content: text.parse().unwrap_or_default() })
    }

    fn is_root(&self) -> bool {
        self.content.contains_key("workspace")
    }

    /// The root that `package.workspace` names.
    fn pointer(&self) -> Option<PathBuf> {
        let root = self.content.get("package")?.get("workspace")?.as_str()?;
        Some(self.directory.join(root))
    }

    /// True if the workspace excludes a directory below it.
    fn excludes(&self, directory: &Path) -> bool {
        let lists = |key: &str| {
            let entries = self.content.get("workspace").and_then(|workspace| workspace.get(key));
            let entries = entries.and_then(Value::as_array).into_iter().flatten();
            entries
                .filter_map(Value::as_str)
                .any(|entry| directory.starts_with(canonical(&self.directory.join(entry))))
        };
        lists("exclude") && !lists("members")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "[workspace]\nmembers = ['web', 'jobs', 'tools/*']\ndefault-members = ['web']\n";
    const PACKAGE: &str = "[package]\nname = 'x'\n";

    /// Directories and files, by path; a path that ends with `/` is a directory.
    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = directory.path().join(path);
            if path.to_string_lossy().ends_with('/') {
                std::fs::create_dir_all(&path).expect("a directory");
            } else {
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
                std::fs::write(path, text).expect("a file");
            }
        }
        let root = directory.path().canonicalize().expect("it exists");
        (directory, root)
    }

    #[test]
    fn all_programs_of_a_workspace_have_one_home() {
        let (_kept, root) = tree(&[
            ("w/Cargo.toml", ROOT),
            ("w/web/Cargo.toml", PACKAGE),
            ("w/jobs/Cargo.toml", PACKAGE),
            ("w/jobs/src/", ""),
            ("w/tools/a/Cargo.toml", PACKAGE),
            ("w/target/debug/", ""),
            ("w/nested/Cargo.toml", "[workspace]\n[package]\nname = 'n'"),
            ("w/nested/part/Cargo.toml", PACKAGE),
            ("far/Cargo.toml", "[package]\nname = 'f'\nworkspace = '../w'"),
            ("far/src/", ""),
            ("alone/Cargo.toml", PACKAGE),
            ("alone/src/bin/", ""),
            ("broken/Cargo.toml", "[package\n"),
            ("repository/.git/", ""),
            ("repository/bin/", ""),
        ]);
        for (start, home) in [
            ("w", "w"),
            ("w/web", "w"),
            ("w/jobs/src", "w"),
            ("w/tools/a", "w"),
            ("w/target/debug", "w"),
            ("w/nested/part", "w/nested"),
            ("far/src", "w"),
            ("alone/src/bin", "alone"),
            ("broken", "broken"),
            // Outside of cargo, the home is the start directory.
            ("repository/bin", "repository/bin"),
        ] {
            let found = Home::of(&root.join(start));
            assert_eq!(found, Home { directory: root.join(home), file: None }, "{start}");
        }
        let url = Home::of(&root.join("w/jobs")).database();
        assert_eq!(url.expose(), format!("sqlite:{}", root.join("w/mq-worker.db").display()));
    }

    #[test]
    fn what_a_workspace_excludes_is_at_home_elsewhere() {
        let (_kept, root) = tree(&[
            ("w/Cargo.toml", "[workspace]\nmembers = ['crates/kept']\nexclude = ['crates', 'other']"),
            ("w/crates/kept/Cargo.toml", PACKAGE),
            ("w/other/Cargo.toml", PACKAGE),
        ]);
        assert_eq!(Home::of(&root.join("w/other")).directory, root.join("w/other"));
        assert_eq!(Home::of(&root.join("w/crates/kept")).directory, root.join("w"));
    }

    #[test]
    fn the_nearest_file_counts_and_the_home_is_never_below_the_workspace() {
        let (_kept, root) = tree(&[
            ("w/Cargo.toml", ROOT),
            ("w/jobs/Cargo.toml", PACKAGE),
            ("w/jobs/mq-worker.toml", ""),
            ("w/web/Cargo.toml", PACKAGE),
            ("several/mq-worker.toml", ""),
            ("several/one/Cargo.toml", PACKAGE),
            ("several/two/src/", ""),
        ]);
        for (start, home, file) in [
            // A member with its own settings still shares the home of the others.
            ("w/jobs", "w", Some("w/jobs/mq-worker.toml")),
            ("w/web", "w", None),
            // A file further up gives one home to several workspaces, and to directories without cargo.
            ("several/one", "several", Some("several/mq-worker.toml")),
            ("several/two/src", "several", Some("several/mq-worker.toml")),
        ] {
            let found = Home::of(&root.join(start));
            let expected = Home { directory: root.join(home), file: file.map(|file| root.join(file)) };
            assert_eq!(found, expected, "{start}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_the_same_home() {
        let (_kept, root) = tree(&[("w/Cargo.toml", ROOT), ("w/jobs/Cargo.toml", PACKAGE)]);
        std::os::unix::fs::symlink(root.join("w"), root.join("link")).expect("a link");
        std::os::unix::fs::symlink(root.join("w/jobs"), root.join("deep")).expect("a link");
        for start in ["link/jobs", "link", "deep"] {
            assert_eq!(Home::of(&root.join(start)).directory, root.join("w"), "{start}");
        }
    }
}
