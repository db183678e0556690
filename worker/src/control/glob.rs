//! Python's `fnmatch`, which a command may use to name the nodes that it is for.

/// `*` is any characters, `?` is one, `[ab]`, `[a-z]` and `[!ab]` are one of a set. Case-sensitive.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // Where to resume when the last star has to match one more character.
    let mut retry: Option<(usize, usize)> = None;
    let (mut p, mut t) = (0, 0);
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            retry = Some((p + 1, t));
            p += 1;
            continue;
        }
        match one(&pattern[p.min(pattern.len())..], text[t]) {
            Some(used) => (p, t) = (p + used, t + 1),
            None => match retry {
                Some((after, taken)) => {
                    retry = Some((after, taken + 1));
                    (p, t) = (after, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Matches one character, and returns how much of the pattern that used.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match set(pattern, c) {
            Some((found, used)) => found.then_some(used),
            // Without a closing bracket, `[` matches itself.
            None => (c == '[').then_some(1),
        },
        same => (*same == c).then_some(1),
    }
}

/// Matches the set at the start of the pattern, and returns how long the set is. `None` if it is never closed.
fn set(pattern: &[char], c: char) -> Option<(bool, usize)> {
    let negated = pattern.get(1) == Some(&'!');
    let begin = if negated { 2 } else { 1 };
    // A closing bracket in the first position is a member.
    let end = begin + 1 + pattern.get(begin + 1..)?.iter().position(|c| *c == ']')?;
    let members = &pattern[begin..end];
    let mut found = false;
    let mut at = 0;
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == '-' {
            found |= (members[at]..=members[at + 2]).contains(&c);
            at += 3;
        } else {
            found |= members[at] == c;
            at += 1;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn it_matches_as_python_does() {
        // Every line was checked against `fnmatch.fnmatchcase` of Python 3.11.
        for (pattern, text, expected) in [
            ("worker*", "worker1@example", true),
            ("worker*", "mail@example", false),
            ("*@example", "worker1@example", true),
            ("w?rker1@*", "worker1@example", true),
            ("w?rker", "wrker", false),
            ("worker[12]@h", "worker2@h", true),
            ("worker[!12]@h", "worker2@h", false),
            ("worker[0-9]@h", "worker7@h", true),
            ("worker[0-9]@h", "worker77@h", false),
            ("[]a]b", "]b", true),
            ("a[b", "a[b", true),
            ("a[b", "ab", false),
            ("*a*b*c", "xxaxxbxxbc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("Worker", "worker", false),
            ("[a-]x", "-x", true),
            ("ü?", "üß", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"*a".repeat(60), &"a".repeat(59)));
        assert!(!matches(&format!("{}b", "*a".repeat(60)), &"a".repeat(5000)));
    }
}
