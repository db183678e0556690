//! Modules import downwards only: the table of rooms and rows, checked against the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows from the bottom up. A module imports from the rows below its own, not from its own.
const ROWS: &[&[&str]] = &[
    &["panics", "show"],
    &["error", "tracing"],
    &["message", "state"],
    &["task", "routing"],
    &["canvas", "connection"],
    &["broker", "backend"],
    &["events", "control", "middleware"],
    &["app"],
    &["runtime", "beat"],
    &["dashboard", "testing"],
    &["cli", "fuzzing"],
];

/// Neighbours on one row that may be imported all the same: (importer, imported).
const NEIGHBOURS: &[(&str, &str)] = &[];

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

/// A subscriber of the program may panic: what is told of goes on, since the crate has macros of its own for that.
#[test]
fn events_are_told_with_a_net_under_them() {
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
fn right_imports_are_let_pass() {
    let right = r"
        use crate::{error::{Error, Result}, message};
        use super::{Broker, delivery::Delivery};
        use self::state::State;
        impl<'a> Foo<'a> { fn f(&'a self) -> char { 'x' } }
    ";
    assert_eq!(check(Path::new("broker/memory/mod.rs"), right), Vec::<String>::new());
    assert_eq!(check(Path::new("lib.rs"), "pub use app::App; use crate::cli;"), Vec::<String>::new());
}

/// What is wrong with one file, a line each.
fn check(file: &Path, source: &str) -> Vec<String> {
    let path = module_path(file);
    let Some(own) = path.first().cloned() else { return Vec::new() };
    let mut problems = Vec::new();
    for (line, imported) in imports(&path, source) {
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

/// `broker/memory/mod.rs` is `broker::memory`; the crate root and the programs are nothing.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    if parts == ["lib"] || parts.first().is_some_and(|first| first == "bin") {
        parts.clear();
    }
    parts
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Token<'a> {
    Word(&'a str),
    /// `::`
    Colons,
    Other(char),
}

/// The top-level modules that are named, through `crate::` or `super::`, with the lines.
fn imports(path: &[String], source: &str) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let token = |at: usize| tokens.get(at).map(|(_, token)| *token);
    // For each open brace the inline module that it begins, if it does.
    let mut braces: Vec<Option<&str>> = Vec::new();
    let mut found = Vec::new();
    for (at, (line, current)) in tokens.iter().enumerate() {
        match current {
            Token::Other('{') => {
                braces.push(match (at.checked_sub(2).and_then(token), token(at.wrapping_sub(1))) {
                    (Some(Token::Word("mod")), Some(Token::Word(name))) => Some(name),
                    _ => None,
                })
            }
            Token::Other('}') => {
                braces.pop();
            }
            // A macro's `$crate` names what it expands to in another crate.
            Token::Word("crate")
                if token(at + 1) == Some(Token::Colons)
                    && at.checked_sub(1).and_then(token) != Some(Token::Other('$')) =>
            {
                found.extend(heads(&tokens, at + 2).into_iter().map(|name| (*line, name)));
            }
            Token::Word("super")
                if token(at + 1) == Some(Token::Colons)
                    && at.checked_sub(2).and_then(token) != Some(Token::Word("super")) =>
            {
                let mut end = at;
                let mut ups = 0;
                while token(end) == Some(Token::Word("super")) && token(end + 1) == Some(Token::Colons) {
                    ups += 1;
                    end += 2;
                }
                // From the crate root on it is the name that counts; before, it is our own room.
                if ups == path.len() + braces.iter().flatten().count() {
                    found.extend(heads(&tokens, end).into_iter().map(|name| (*line, name)));
                }
            }
            _ => {}
        }
    }
    found
}

/// The first names of a path or of each path in a group: `a::b` is `a`, `{a::b, c}` is `a` and `c`.
fn heads(tokens: &[(usize, Token<'_>)], at: usize) -> Vec<String> {
    match tokens.get(at).map(|(_, token)| *token) {
        Some(Token::Word(name)) => vec![name.to_owned()],
        Some(Token::Other('{')) => {
            let mut names = Vec::new();
            let mut depth = 0;
            let mut begins = true;
            for (_, token) in &tokens[at..] {
                match token {
                    Token::Other('{') => depth += 1,
                    Token::Other('}') => depth -= 1,
                    Token::Other(',') if depth == 1 => begins = true,
                    Token::Word(name) if depth == 1 && begins => {
                        names.push((*name).to_owned());
                        begins = false;
                    }
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            names
        }
        _ => Vec::new(),
    }
}

/// Words and signs with their lines, without comments, texts and characters.
fn tokens(source: &str) -> Vec<(usize, Token<'_>)> {
    let mut tokens = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = text_length(rest) {
            length
        } else if first == '\'' {
            character_length(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push((line, Token::Word(&rest[..length])));
            length
        } else if rest.starts_with("::") {
            tokens.push((line, Token::Colons));
            2
        } else {
            if !first.is_whitespace() {
                tokens.push((line, Token::Other(first)));
            }
            first.len_utf8()
        };
        line += rest[..length].matches('\n').count();
        rest = &rest[length..];
    }
    tokens
}

/// The length of a string literal at the beginning, plain or raw.
fn text_length(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r'))?;
    let after = &rest[prefix..];
    if rest[..prefix].ends_with('r') {
        let hashes = after.len() - after.trim_start_matches('#').len();
        if after[hashes..].starts_with('"') {
            let end = format!("\"{}", &after[..hashes]);
            let body = prefix + hashes + 1;
            return Some(rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len()));
        }
    }
    if !after.starts_with('"') {
        return None;
    }
    let mut escaped = false;
    for (at, c) in after.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(prefix + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// The length of a character literal, or of the quote of a lifetime.
fn character_length(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(1, |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of source files").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
