//! Which files and folders import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::source::{imports, module_path, rust_files};

/// For each folder, and each file or folder in it: the siblings that it imports, outside of tests. The `mod.rs` of a folder
/// is not a sibling but shared by all of them.
pub(super) type Edges = BTreeMap<(String, String), BTreeSet<String>>;

pub(super) fn edges() -> Edges {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/src");
    let mut edges = Edges::new();
    for file in rust_files(&root) {
        let relative = file.strip_prefix(&root).expect("a file below the root");
        add_edges(&mut edges, &module_path(relative), &fs::read_to_string(&file).expect("a source file"));
    }
    // A name that is not a module is an item of the folder itself.
    let modules: BTreeSet<(String, String)> = edges.keys().cloned().collect();
    for ((folder, _), imported) in &mut edges {
        imported.retain(|name| modules.contains(&(folder.clone(), name.clone())));
    }
    edges
}

pub(super) fn add_edges(edges: &mut Edges, path: &[String], source: &str) {
    if path.iter().any(|part| part == "tests") {
        return;
    }
    let imports = imports(path, source);
    let imported = imports.iter().filter(|import| !import.is_test).map(|import| &import.path);
    for depth in 1..path.len() {
        let (folder, own) = (path[..depth].join("/"), &path[depth]);
        let neighbours = edges.entry((folder, own.clone())).or_default();
        for other in imported.clone().filter(|other| other.len() > depth && other[..depth] == path[..depth]) {
            if other[depth] != *own {
                neighbours.insert(other[depth].clone());
            }
        }
    }
}

/// Returns the files and folders that can reach each other, by folder.
pub(super) fn circles(edges: &Edges) -> BTreeSet<(String, Vec<String>)> {
    let reached = |folder: &String, from: &String| {
        let mut seen = BTreeSet::new();
        let mut left = vec![from.clone()];
        while let Some(name) = left.pop() {
            for next in edges.get(&(folder.clone(), name)).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    left.push(next.clone());
                }
            }
        }
        seen
    };
    let mut found = BTreeSet::new();
    for (folder, name) in edges.keys() {
        let members: Vec<String> =
            reached(folder, name).into_iter().filter(|other| reached(folder, other).contains(name)).collect();
        if !members.is_empty() {
            found.insert((folder.clone(), members));
        }
    }
    found
}
