//! "Did you mean …": the known word that is nearest to an unknown one.

use strsim::damerau_levenshtein;

/// The nearest of `choices`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within((word.chars().count() / 3).max(1), word, choices)
}

/// The one of `choices` that is a single typo away: one letter too many, missing, wrong, or swapped with the next.
pub(super) fn one_typo_from<'a>(word: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    within(1, word, choices)
}

fn within<'a>(typos: usize, word: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    choices
        .into_iter()
        .map(|choice| (damerau_levenshtein(word, choice), choice))
        .filter(|(distance, _)| *distance <= typos)
        .min()
        .map(|(_, choice)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_a_stranger_is_not() {
        let keys = ["concurrency", "prefetch", "queues"];
        assert_eq!(nearest("concurency", keys), Some("concurrency"));
        assert_eq!(nearest("queue", keys), Some("queues"));
        assert_eq!(nearest("colour", keys), None);
        assert_eq!(nearest("", keys), None);
    }

    #[test]
    fn a_single_typo_is_one_letter() {
        for (word, expected) in [
            ("grcae", Some("grace")),
            ("grce", Some("grace")),
            ("graace", Some("grace")),
            ("grate", Some("grace")),
            ("grcea", None),
            ("grace", Some("grace")),
        ] {
            assert_eq!(one_typo_from(word, ["grace"]), expected, "{word}");
        }
    }
}
