//! How a topic pattern matches a routing key: RabbitMQ's rule, as a pure function.

/// True if `pattern` matches `key`: both are words separated by dots, `*` is exactly one word, `#` zero or more.
///
/// The empty key has no words at all, so that only patterns of `#` match it.
///
/// ```
/// use mq_worker::topic_matches;
///
/// assert!(topic_matches("order.*.paid", "order.eu.paid"));
/// assert!(!topic_matches("order.*.paid", "order.paid"));
/// assert!(topic_matches("order.#", "order"));
/// ```
pub fn topic_matches(pattern: &str, key: &str) -> bool {
    let pattern = words(pattern);
    let key = words(key);
    // `reach[i]`: the pattern so far matches the first `i` words of the key.
    let mut reach = vec![false; key.len() + 1];
    reach[0] = true;
    for word in pattern {
        if word == "#" {
            let first = reach.iter().position(|&r| r).unwrap_or(reach.len());
            reach[first..].fill(true);
        } else {
            for i in (0..key.len()).rev() {
                reach[i + 1] = reach[i] && (word == "*" || word == key[i]);
            }
            reach[0] = false;
        }
    }
    reach[key.len()]
}

/// RabbitMQ splits the empty text into no words, not into one empty word.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

#[cfg(test)]
mod tests {
    use super::topic_matches;

    #[test]
    fn stars_are_one_word_and_hashes_any_number() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "", false),
            ("#.a", "a", true),
            ("#.b.#", "a.b.c", true),
            ("*.#.*", "a", false),
            ("*.#.*", "a.b", true),
            ("", "", true),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
            ("a*", "ab", false),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern:?} {key:?}");
        }
    }
}
