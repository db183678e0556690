//! "Did you mean …": the known word that is nearest to an unknown one.

/// The nearest of `choices`, if one is near enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, choices: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    choices
        .into_iter()
        .map(|choice| (distance(word, choice), choice))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, choice)| choice)
}

/// How many single letters must be inserted, deleted or replaced (Levenshtein).
pub(crate) fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
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
}
