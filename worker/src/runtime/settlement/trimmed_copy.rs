//! Copies of a message with fewer and fewer headers, until the broker takes one.
//!
//! A worker adds headers to what it sends again: the history, the error, the address. A message that came in with headers as
//! large as the broker allows has no room for them. What the worker added is dropped first, then the sender's largest
//! headers, and in a dead letter, which is not run, the rest. The names of the dropped headers are kept.

use crate::message::Message;
use crate::message::headers::{names, owner};
use crate::message::history::shortened;

/// How many characters of the error a smaller copy keeps.
const ERROR: usize = 200;
/// How many of the dropped headers are named, and how many characters of each name.
const NAMED: (usize, usize) = (10, 60);

/// A copy that can be trimmed.
pub(crate) struct TrimmedCopy {
    message: Message,
    is_letter: bool,
    /// True once the worker's own additions were dropped.
    is_bare: bool,
    /// How many of the sender's headers to drop next: more each time, as there may be thousands.
    next: usize,
    dropped: Vec<String>,
}

impl TrimmedCopy {
    /// A message that will be run: the headers that make it a call are kept.
    pub(crate) fn call(message: Message) -> Self {
        Self { message, is_letter: false, is_bare: false, next: 1, dropped: Vec::new() }
    }

    /// A dead letter: the headers that give the reason are kept.
    pub(crate) fn letter(message: Message) -> Self {
        Self { is_letter: true, ..Self::call(message) }
    }

    /// The message as it is now.
    pub(crate) fn message(&self) -> Message {
        let mut message = self.message.clone();
        if let Some(dropped) = self.dropped() {
            message.headers.set(names::DROPPED, dropped);
        }
        message
    }

    /// The names of the dropped headers.
    pub(crate) fn dropped(&self) -> Option<String> {
        let (count, length) = NAMED;
        let mut named: Vec<String> =
            self.dropped.iter().take(count).map(|name| shortened(name, length)).collect();
        if self.dropped.len() > count {
            named.push(format!("and {} more", self.dropped.len() - count));
        }
        (!named.is_empty()).then(|| named.join(", "))
    }

    /// Drops the headers that are least needed. False when there are no more to drop.
    pub(crate) fn trim(&mut self) -> bool {
        if !std::mem::replace(&mut self.is_bare, true) && self.drop_own() {
            return true;
        }
        let by_size = |may_go: fn(&str) -> bool| {
            let mut sizes: Vec<(usize, String)> = self
                .message
                .headers
                .iter()
                .filter(|(name, _)| may_go(name))
                .map(|(name, value)| (name.len() + value.to_string().len(), name.to_owned()))
                .collect();
            sizes.sort_unstable_by(|a, b| b.cmp(a));
            sizes
        };
        let mut sizes = by_size(|name| owner(name).is_none());
        if sizes.is_empty() && self.is_letter {
            sizes = by_size(|name| !name.starts_with("mq-dead-"));
        }
        sizes.truncate(self.next);
        self.next = self.next.saturating_mul(2);
        for (_, name) in &sizes {
            self.message.headers.remove(name);
        }
        let is_smaller = !sizes.is_empty();
        self.dropped.extend(sizes.into_iter().map(|(_, name)| name));
        is_smaller
    }

    /// Drops the history and most of the error.
    fn drop_own(&mut self) -> bool {
        let headers = &mut self.message.headers;
        let error = headers.get_str(names::DEAD_ERROR).map(|error| shortened(error, ERROR));
        if let Some(error) = error {
            headers.set(names::DEAD_ERROR, error);
        }
        if headers.remove(names::HISTORY).is_some() {
            self.dropped.push(names::HISTORY.to_owned());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    fn message(own: &[(&str, usize)]) -> Message {
        let mut headers = Headers::for_task("t", "id-1");
        headers.set(names::HISTORY, "h".repeat(3000));
        headers.set(names::DEAD_ERROR, "e".repeat(3000));
        for (name, length) in own {
            headers.set(*name, "x".repeat(*length));
        }
        Message { headers, ..Message::default() }
    }

    fn names_of(message: &Message) -> Vec<&str> {
        message.headers.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn the_history_goes_first_and_then_the_largest_headers() {
        let mut smaller = TrimmedCopy::call(message(&[("a", 10), ("b", 3000), ("c", 20), ("d", 5)]));
        assert_eq!(smaller.message(), smaller.message);
        assert!(smaller.trim());
        assert_eq!(
            names_of(&smaller.message()),
            ["a", "b", "c", "d", "id", "mq-dead-error", "mq-dropped-headers", "task"]
        );
        assert!(smaller.trim());
        assert_eq!(smaller.dropped().as_deref(), Some("mq-history, b"));
        assert!(smaller.trim());
        assert_eq!(smaller.dropped().as_deref(), Some("mq-history, b, c, a"));
        assert!(smaller.trim() && !smaller.trim());
        assert_eq!(names_of(&smaller.message()), ["id", "mq-dead-error", "mq-dropped-headers", "task"]);
        assert_eq!(smaller.message().headers.get_str(names::DEAD_ERROR).expect("an error").len(), 203);
    }

    #[test]
    fn a_dead_letter_keeps_at_last_only_what_says_why_it_is_one() {
        let mut smaller = TrimmedCopy::letter(message(&[]));
        while smaller.trim() {}
        assert_eq!(names_of(&smaller.message()), ["mq-dead-error", "mq-dropped-headers"]);
    }

    #[test]
    fn thousands_of_headers_go_in_a_few_steps_and_are_not_all_named() {
        let names: Vec<String> = (0..5000).map(|n| format!("{n:0>100}")).collect();
        let own: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 1)).collect();
        let mut smaller = TrimmedCopy::call(message(&own));
        let steps = std::iter::repeat_with(|| smaller.trim()).take_while(|is_smaller| *is_smaller).count();
        assert!(steps < 20, "{steps}");
        let dropped = smaller.dropped().expect("names");
        assert!(dropped.ends_with("and 4991 more") && dropped.len() < 1000, "{dropped}");
    }
}
