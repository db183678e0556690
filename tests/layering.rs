//! Checks the source against these tables: modules import downwards only, and the files of a folder not in a circle.

mod circles;
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use circles::{Edges, add_edges, circles, edges};
use source::{imports, module_path, rust_files};

/// The rows from the bottom up. A module imports only from the rows below its own.
const ROWS: &[&[&str]] = &[
    &["panics", "show"],
    &["error", "tracing"],
    &["message", "schedule", "state"],
    &["task", "routing"],
    &["canvas", "connection"],
    &["broker", "backend"],
    &["events", "control", "middleware", "traces"],
    &["app", "history"],
    &["runtime", "beat", "admin"],
    &["dashboard", "testing"],
    &["cli", "fuzzing"],
];

/// Exceptions within a row: (importer, imported).
const NEIGHBOURS: &[(&str, &str)] = &[];

/// The same inside `runtime`: the stages in the order in which a delivery passes them, and the modules beside them.
const RUNTIME: &[&[&str]] = &[
    &["handle", "sources", "waited"],
    &["reporter", "startup"],
    &["admission"],
    &["execution", "metrics"],
    &["settlement"],
    &["heartbeat", "prefetch"],
    &["control", "health"],
    &["pipe"],
    &["worker"],
];

/// A file with more lines than this usually holds two nouns.
const LONGEST: usize = 400;

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

#[test]
fn modules_import_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src");
    let files = rust_files(&root);
    assert!(files.len() > 20, "the source is not where it was: {}", root.display());
    let mut problems = Vec::new();
    for file in &files {
        let relative = file.strip_prefix(&root).expect("a file below the root");
        let source = fs::read_to_string(file).expect("a source file");
        problems.extend(check(relative, &source));
    }
    assert!(problems.is_empty(), "{} wrong imports:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn every_module_has_a_row() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src");
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("a file below the root");
        if let Some(top) = module_path(relative).first() {
            assert!(row(top).is_some(), "`{top}` is in no row: {}", relative.display());
        }
    }
}

#[test]
fn a_runtime_stage_imports_only_earlier_stages() {
    let row = |name: &str| RUNTIME.iter().position(|row| row.contains(&name));
    let mut problems = Vec::new();
    for ((folder, from), imported) in edges() {
        if folder == "runtime" {
            let (own, theirs) = (row(&from), imported.iter().map(|name| (name, row(name))));
            let wrong = theirs.filter(|(_, row)| own.is_none() || row.is_none() || *row >= own);
            problems.extend(wrong.map(|(name, _)| format!("`{from}` imports `{name}`")));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn the_files_of_a_folder_do_not_import_each_other_in_a_circle() {
    let found = circles(&edges());
    assert!(found.is_empty(), "folders, and what imports each other in them: {found:?}");
}

#[test]
fn no_file_is_too_long() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src");
    let mut long: Vec<String> = Vec::new();
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("a file below the root");
        let lines = fs::read_to_string(&file).expect("a source file").lines().count();
        if lines > LONGEST {
            long.push(relative.display().to_string());
        }
    }
    assert!(long.is_empty(), "files of more than {LONGEST} lines: {long:?}");
}

#[test]
fn circles_are_seen() {
    let source = [
        ("a/mod.rs", "mod b; mod c; use b::B; use super::x::X;"),
        ("a/b.rs", "use super::{A, c::{C, D}};"),
        ("a/c/mod.rs", "use self::deep::Deep; use crate::a::e::E;"),
        ("a/c/deep.rs", "fn f() { super::super::d::f(); }"),
        ("a/d.rs", "use crate::{x, a::b};"),
        ("a/e.rs", "#[cfg(test)] mod tests { use super::super::b::B; use super::*; }"),
    ];
    let mut edges = Edges::new();
    for (file, source) in source {
        add_edges(&mut edges, &module_path(Path::new(file)), source);
    }
    let members = ["b", "c", "d"].map(str::to_owned).to_vec();
    assert_eq!(circles(&edges), [("a".to_owned(), members)].into(), "{edges:?}");
}

/// A subscriber of the program may panic: the crate's own macros keep such a panic from stopping what is being logged.
#[test]
fn events_are_logged_through_the_panic_safe_macros() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src");
    for file in rust_files(&root) {
        let source = fs::read_to_string(&file).expect("a source file");
        let tells = ["error!(", "warn!(", "info!(", "debug!("].iter().any(|name| {
            let name = format!("tracing::{name}");
            source.match_indices(&name).any(|(at, _)| !source[..at].ends_with("::"))
        });
        let imports = source.contains("use crate::tracing");
        let bare = source.lines().any(|line| line.trim_start().starts_with("use tracing::"));
        assert!((imports || !tells) && !bare, "{}: say `use crate::tracing;`", file.display());
    }
}

#[test]
fn wrong_imports_are_seen() {
    let wrong = r#"
        use crate::error::Error;                      // fine
        use crate::app::App;                          // up
        use crate::{message::Message, cli, runtime::{Worker, request::Request}};
        use crate::backend::ResultRecord;             // beside
        use crate::Result;                            // through the root
        use super::super::beat::Schedule;             // up, relative
        use super::super::{routing, app as application};
        fn f() { crate::dashboard::serve(); let _ = "crate::testing"; /* crate::testing */ }
        #[cfg(test)]
        mod tests {
            use super::super::super::events::Event;   // one module further in
            use super::super::cli;                    // a `cli` of our own
            mod deep { use crate::control::Command; }
        }
        use super::delivery::Delivery;                // our own
        const TEXT: &str = r"crate::testing"; const C: char = '"'; // crate::testing
        macro_rules! m { () => { $crate::cli::main() } } // what its users may name
        use crate::testing;                           // and still awake after the quote
    "#;
    let problems = check(Path::new("broker/memory.rs"), wrong);
    let seen: BTreeSet<&str> =
        problems.iter().map(|problem| problem.split('`').nth(3).expect("the second name")).collect();
    let expected =
        ["Result", "app", "backend", "beat", "cli", "control", "dashboard", "events", "runtime", "testing"];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected, "{problems:#?}");
    assert_eq!(problems.len(), 11, "`app` twice, everything else once: {problems:#?}");
    assert!(problems[0].starts_with("broker/memory.rs:3:"), "{}", problems[0]);
}

#[test]
fn correct_imports_are_accepted() {
    let right = r"
        use crate::{error::{Error, Result}, message};
        use super::{Broker, delivery::Delivery};
        use self::state::State;
        impl<'a> Foo<'a> { fn f(&'a self) -> char { 'x' } }
    ";
    assert_eq!(check(Path::new("broker/memory/mod.rs"), right), Vec::<String>::new());
    assert_eq!(check(Path::new("lib.rs"), "pub use app::App; use crate::cli;"), Vec::<String>::new());
}

/// Returns the problems of one file, one per line.
fn check(file: &Path, source: &str) -> Vec<String> {
    let path = module_path(file);
    let Some(own) = path.first().cloned() else { return Vec::new() };
    let mut problems = Vec::new();
    let mut heads: Vec<(usize, String)> =
        imports(&path, source).into_iter().map(|import| (import.line, import.path[0].clone())).collect();
    // A group may name one module twice.
    heads.dedup();
    for (line, imported) in heads {
        let allowed = imported == own
            || NEIGHBOURS.contains(&(own.as_str(), imported.as_str()))
            || matches!((row(&own), row(&imported)), (Some(own), Some(theirs)) if theirs < own);
        if !allowed {
            let why = match (row(&own), row(&imported)) {
                (_, None) => "which is no module: import by module path, not through the crate root",
                (Some(own), Some(theirs)) if theirs == own => "which stands beside it",
                _ => "which stands above it",
            };
            problems.push(format!("{}:{line}: `{own}` imports `{imported}`, {why}", file.display()));
        }
    }
    problems
}
