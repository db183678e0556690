//! A topic with the type of its events, named once and used by both sides.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use super::matching::topic_matches;
use crate::error::{Error, Result};

/// A topic and the type of the events on it: who emits and who subscribes name the same constant, and the
/// compiler checks both.
///
/// ```
/// use mq_worker::{App, Topic, task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// pub struct Order { pub id: u64 }
///
/// /// An order was paid; the word in the middle is the country.
/// pub const ORDER_PAID: Topic<Order> = Topic::new("order.*.paid");
///
/// #[task(queue = "stock", topic = ORDER_PAID)]
/// async fn reserve(order: Order) {}
///
/// async fn paid(app: &App, order: &Order) -> mq_worker::Result<()> {
///     let _ = app.emit(ORDER_PAID.at("eu"), order).await?; // with the key `order.eu.paid`
///     Ok(())
/// }
/// # fn main() {}
/// ```
///
/// An event of another type does not compile:
///
/// ```compile_fail,E0277
/// # use mq_worker::{App, Topic};
/// const COUNTED: Topic<u64> = Topic::new("counted");
/// async fn wrong(app: &App) {
///     let _ = app.emit(COUNTED, "twelve").await;
/// }
/// ```
pub struct Topic<T> {
    pattern: &'static str,
    event: PhantomData<fn() -> T>,
}

impl<T> Topic<T> {
    /// A topic: words between dots. `*` stands for any one word and `#` for any number of them; whoever emits
    /// says which, with [`at`](Self::at).
    pub const fn new(pattern: &'static str) -> Self {
        Self { pattern, event: PhantomData }
    }

    /// What a subscription binds with.
    pub const fn pattern(self) -> &'static str {
        self.pattern
    }

    /// The topic with its first `*` or `#` replaced.
    pub fn at(self, words: impl fmt::Display) -> TopicAt<T> {
        let unfilled = TopicAt { topic: self, key: self.pattern.to_owned(), filled: 0, surplus: false };
        unfilled.at(words)
    }
}

impl<T> Clone for Topic<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Topic<T> {}

impl<T> fmt::Debug for Topic<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.pattern)
    }
}

/// A [`Topic`] whose places are being filled in.
#[derive(Clone, Debug)]
pub struct TopicAt<T> {
    topic: Topic<T>,
    key: String,
    /// Everything before this byte is final: a word that was filled in is never taken for a place.
    filled: usize,
    /// There were more words than places.
    surplus: bool,
}

impl<T> TopicAt<T> {
    /// The topic with its next `*` or `#` replaced as well.
    #[must_use]
    pub fn at(mut self, words: impl fmt::Display) -> Self {
        match self.next_place() {
            Some(place) => {
                let words = words.to_string();
                self.key.replace_range(place..=place, &words);
                self.filled = place + words.len();
            }
            None => self.surplus = true,
        }
        self
    }

    /// Where the next word stands that is `*` or `#`.
    fn next_place(&self) -> Option<usize> {
        let mut start = self.filled;
        for word in self.key[self.filled..].split('.') {
            if word == "*" || word == "#" {
                return Some(start);
            }
            start += word.len() + 1;
        }
        None
    }
}

/// What an event of type `T` can be emitted to: a [`Topic`] of that type, or any text.
#[diagnostic::on_unimplemented(
    message = "an event of type `{T}` cannot be emitted to `{Self}`",
    label = "this topic has events of another type"
)]
pub trait EmitTo<T: ?Sized> {
    /// The routing key.
    ///
    /// # Errors
    /// A pattern with a place that was not filled in, or filled with words that do not fit.
    fn routing_key(&self) -> Result<Cow<'_, str>>;
}

impl<T: ?Sized> EmitTo<T> for &str {
    fn routing_key(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self))
    }
}

impl<T: ?Sized> EmitTo<T> for &String {
    fn routing_key(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self))
    }
}

impl<T: ?Sized> EmitTo<T> for String {
    fn routing_key(&self) -> Result<Cow<'_, str>> {
        Ok(Cow::Borrowed(self))
    }
}

impl<T> EmitTo<T> for Topic<T> {
    fn routing_key(&self) -> Result<Cow<'_, str>> {
        if self.pattern.split('.').any(|word| word == "*" || word == "#") {
            return Err(Error::config(format!(
                "cannot emit to the pattern `{}`: fill it in with `.at(..)`",
                self.pattern
            )));
        }
        Ok(Cow::Borrowed(self.pattern))
    }
}

impl<T> EmitTo<T> for TopicAt<T> {
    fn routing_key(&self) -> Result<Cow<'_, str>> {
        let pattern = self.topic.pattern;
        let problem = if self.surplus {
            "the topic has fewer places than words were given"
        } else if self.next_place().is_some() {
            "a place is not filled: give one `.at(..)` for each `*` and `#`"
        } else if !topic_matches(pattern, &self.key) {
            "the words do not fit: `*` stands for one word, without dots"
        } else {
            return Ok(Cow::Borrowed(&self.key));
        };
        Err(Error::config(format!("cannot emit to `{}` of topic `{pattern}`: {problem}", self.key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAID: Topic<u64> = Topic::new("order.*.paid");
    const ANY: Topic<u64> = Topic::new("log.*.#");

    fn key(topic: impl EmitTo<u64>) -> Result<String, String> {
        topic.routing_key().map(Cow::into_owned).map_err(|error| error.to_string())
    }

    #[test]
    fn places_are_filled_from_left_to_right() {
        assert_eq!(key(PAID.at("eu")), Ok("order.eu.paid".into()));
        assert_eq!(key(ANY.at("db").at("slow.query")), Ok("log.db.slow.query".into()));
        assert_eq!(key(ANY.at(7).at("*")), Ok("log.7.*".into()), "a word may look like a place");
        assert_eq!(key(Topic::new("plain")), Ok("plain".into()));
        assert_eq!(key("order.*.paid"), Ok("order.*.paid".into()), "a text is taken as it is");
    }

    #[test]
    fn a_key_that_no_subscriber_expects_is_an_error() {
        for (found, text) in [
            (key(PAID), "say which"),
            (key(ANY.at("db")), "not filled"),
            (key(PAID.at("eu").at("more")), "fewer places"),
            (key(PAID.at("eu.north")), "do not fit"),
        ] {
            assert!(found.as_ref().is_err_and(|error| error.contains(text)), "{found:?}");
        }
    }
}
