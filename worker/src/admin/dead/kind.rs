//! Which dead letters share a cause: their errors differ only in the names and numbers they mention.

use crate::show::one_line;

/// How many characters of an error identify its kind.
const LONGEST: usize = 160;

/// The kind of an error: its text without numbers, ids, addresses and quoted names.
pub(crate) fn kind(error: &str) -> String {
    // The beginning is enough, and the rest may be megabytes.
    let start: String = error.chars().take(LONGEST * 4).collect();
    let words = start.split_whitespace().map(|word| {
        if word.contains('@') {
            return edges(word, "…@…");
        }
        if is_id(word) {
            return edges(word, "…");
        }
        let mut text = String::new();
        for c in word.chars() {
            if !c.is_ascii_digit() {
                text.push(c);
            } else if !text.ends_with('#') {
                text.push('#');
            }
        }
        text
    });
    one_line(&unquoted(&words.collect::<Vec<_>>().join(" ")), LONGEST)
}

/// Replaces a word, but not the punctuation around it.
fn edges(word: &str, middle: &str) -> String {
    let is_edge = |c: char| c.is_ascii_punctuation();
    let start: String = word.chars().take_while(|c| is_edge(*c)).collect();
    let end: String = word.chars().rev().take_while(|c| is_edge(*c)).collect();
    format!("{start}{middle}{}", end.chars().rev().collect::<String>())
}

/// True for what looks like a UUID or another hexadecimal id.
fn is_id(word: &str) -> bool {
    let word = word.trim_matches(|c: char| c.is_ascii_punctuation());
    word.len() >= 12
        && word.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        && word.bytes().any(|byte| byte.is_ascii_digit())
}

/// Removes names, which stand between backquotes or double quotes.
fn unquoted(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '"']) {
        let quote = &rest[at..=at];
        let Some(length) = rest[at + 1..].find(quote) else { break };
        result += &rest[..at];
        result += &format!("{quote}…{quote}");
        rest = &rest[at + length + 2..];
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::kind;

    #[test]
    fn errors_of_one_kind_are_the_same() {
        for (error, expected) in [
            ("failed: 550 no such box <ada@example.com>", "failed: # no such box <…@…>"),
            ("timeout after 30.5s on host-12", "timeout after #.#s on host-#"),
            ("no order 019321f0-8f3a-7c1e-b0c4-5f1e6a7b8c9d.", "no order …."),
            ("unknown field `colour` at line 3", "unknown field `…` at line #"),
            ("an odd ` quote\n  and a new line", "an odd ` quote and a new line"),
            ("", ""),
        ] {
            assert_eq!(kind(error), expected);
        }
        assert!(kind(&"long ".repeat(100_000)).chars().count() <= 160);
    }
}
