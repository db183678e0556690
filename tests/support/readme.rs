//! The parts of a README: commands with their output, and code.

use std::path::Path;

/// A command of a README with lines of its output.
#[derive(Debug)]
pub struct Step {
    /// The command, for a shell.
    pub command: String,
    /// Lines that its output contains; `[..]` stands for any text.
    pub expected: Vec<String>,
}

/// The text of a README.
#[derive(Debug)]
pub struct Readme {
    /// Its path, for messages.
    pub name: String,
    text: String,
}

impl Readme {
    /// Reads a file.
    ///
    /// # Panics
    /// When there is none.
    pub fn read(path: &Path) -> Self {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{name}: {error}"));
        Self { name, text }
    }

    /// Returns the number of lines.
    pub fn lines(&self) -> usize {
        self.text.lines().count()
    }

    /// Returns the steps in the ```` ```console ```` blocks.
    ///
    /// # Panics
    /// When there is none.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for line in self.blocks("console").iter().flatten() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.into(), expected: Vec::new() }),
                None => steps.last_mut().expect("a command first").expected.push((*line).into()),
            }
        }
        assert!(!steps.is_empty(), "{}: no command", self.name);
        steps
    }

    /// Returns the lines of each block in a language.
    pub fn blocks(&self, language: &str) -> Vec<Vec<&str>> {
        let (mut blocks, mut inside): (Vec<Vec<&str>>, _) = (Vec::new(), None);
        for line in self.text.lines() {
            match (inside, line.strip_prefix("```")) {
                (None, Some(begun)) => {
                    inside = Some(begun);
                    if begun == language {
                        blocks.push(Vec::new());
                    }
                }
                (Some(_), Some(_)) => inside = None,
                (Some(begun), None) if begun == language => blocks.last_mut().expect("it began").push(line),
                _ => {}
            }
        }
        blocks
    }
}

impl Step {
    /// Checks that every expected line is there, in any order, since some commands run concurrently.
    ///
    /// # Panics
    /// When one is not.
    pub fn check_output(&self, printed: &str) {
        for expected in &self.expected {
            let found = printed.lines().any(|line| matches(expected, line));
            assert!(found, "`{}` does not print `{expected}`:\n{printed}", self.command);
        }
    }
}

/// Matches a line with a pattern in which `[..]` stands for any text.
fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("[..]");
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_dots_in_brackets_stand_for_any_text() {
        for (pattern, line, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a[..]", "ab", true),
            ("[..]b[..]", "abc", true),
            ("a[..]b", "a--b", true),
            ("a[..]b", "a--", false),
        ] {
            assert_eq!(matches(pattern, line), expected, "{pattern} {line}");
        }
    }

    #[test]
    fn blocks_of_one_language_are_found_among_others() {
        let text =
            "one\n```rust\nfn a() {}\n```\n```console\n$ run\nout\n$ next\n```\n```rust\n1\n2\n```\n".into();
        let readme = Readme { name: "a test".into(), text };
        assert_eq!(readme.blocks("rust"), [vec!["fn a() {}"], vec!["1", "2"]]);
        let steps = readme.steps();
        assert_eq!((steps.len(), &*steps[0].command, &*steps[0].expected[0]), (2, "run", "out"));
    }
}
