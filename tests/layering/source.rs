//! Parses the imports of a source file.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the module path of a file: `broker/memory/mod.rs` is `broker::memory`; the crate root and the programs are empty.
pub(super) fn module_path(file: &Path) -> Vec<String> {
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

/// A path from the crate root that is named through `crate::` or `super::`.
pub(super) struct Import {
    pub(super) path: Vec<String>,
    /// The line on which it is named.
    pub(super) line: usize,
    /// True if it is named in an inline module of tests.
    pub(super) is_test: bool,
}

/// Returns all imports of a file; `path` is the file's own.
pub(super) fn imports(path: &[String], source: &str) -> Vec<Import> {
    let tokens = tokens(source);
    let token = |at: usize| tokens.get(at).map(|(_, token)| *token);
    let is_super = |at| token(at) == Some(Token::Word("super")) && token(at + 1) == Some(Token::Colons);
    // For each open brace, the inline module that it opens, if any.
    let mut braces: Vec<Option<&str>> = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some((line, current)) = tokens.get(at).copied() {
        let before = at.checked_sub(1).and_then(token);
        // `$crate` in a macro is not an import: it names what the macro's users may name.
        let begins = token(at + 1) == Some(Token::Colons)
            && !matches!(before, Some(Token::Colons | Token::Other('$')));
        match current {
            Token::Other('{') => braces.push(match (at.checked_sub(2).and_then(token), before) {
                (Some(Token::Word("mod")), Some(Token::Word(name))) => Some(name),
                _ => None,
            }),
            Token::Other('}') => drop(braces.pop()),
            Token::Word("crate" | "super") if begins => {
                let inline = braces.iter().flatten().map(|name| (*name).to_owned());
                let mut base: Vec<String> = path.iter().cloned().chain(inline).collect();
                if current == Token::Word("crate") {
                    base.clear();
                    at += 2;
                }
                while is_super(at) {
                    base.pop();
                    at += 2;
                }
                let mut paths = Vec::new();
                leaves(&tokens, at, &base, &mut paths);
                let is_test = braces.contains(&Some("tests"));
                found.extend(paths.into_iter().map(|path| Import { path, line, is_test }));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Collects each path below a base: `a::{b, c::d}` is `a::b` and `a::c::d`. Returns where they end.
fn leaves(
    tokens: &[(usize, Token<'_>)],
    mut at: usize,
    base: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let token = |at: usize| tokens.get(at).map(|(_, token)| *token);
    let mut path = base.to_vec();
    loop {
        match token(at) {
            Some(Token::Word(name)) => path.push(name.to_owned()),
            Some(Token::Other('{')) => {
                at += 1;
                while !matches!(token(at), Some(Token::Other('}')) | None) {
                    // Skip the comma or the star as well.
                    at = leaves(tokens, at, &path, found).max(at + 1);
                    if token(at) == Some(Token::Word("as")) {
                        at += 2;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
        at += 1;
        if token(at) != Some(Token::Colons) {
            break;
        }
        at += 1;
    }
    if path.len() > base.len() {
        found.push(path);
    }
    at
}

/// Returns words and signs with their lines, without comments, strings and character literals.
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

/// Returns the length of a leading string literal, plain or raw.
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

/// Returns the length of a character literal, or of the quote of a lifetime.
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

pub(super) fn rust_files(directory: &Path) -> Vec<PathBuf> {
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
