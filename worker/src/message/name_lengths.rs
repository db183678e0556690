//! A quick check for headers that a message does not have.

use serde_json::{Map, Value};

/// The lengths of all names in a header table. A worker looks for some thirty headers, and most messages have two: without a
/// match here, a lookup need not compare any names.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct NameLengths(u64);

impl NameLengths {
    pub(super) fn of(table: &Map<String, Value>) -> Self {
        let mut lengths = Self::default();
        table.keys().for_each(|name| lengths.add(name));
        lengths
    }

    pub(super) fn add(&mut self, name: &str) {
        self.0 |= bit(name);
    }

    /// False if the table certainly has no such name.
    #[inline]
    pub(super) fn may_contain(self, name: &str) -> bool {
        self.0 & bit(name) != 0
    }
}

#[inline]
fn bit(name: &str) -> u64 {
    1 << (name.len() % 64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;

    #[test]
    fn a_header_is_found_while_it_is_there() {
        let mut headers: Headers = [("eta".to_owned(), Value::Null)].into_iter().collect();
        // As long as `eta` by the measure of `NameLengths`.
        let long = "x".repeat(3 + 64);
        assert_eq!(
            (headers.get("eta"), headers.get("utc"), headers.get(&long)),
            (Some(&Value::Null), None, None)
        );
        headers.set(&*long, 1);
        assert_eq!(headers.remove("utc"), None);
        assert_eq!(headers.remove("eta"), Some(Value::Null));
        assert_eq!((headers.get("eta"), headers.get(&long)), (None, Some(&Value::from(1))));
        headers.retain(|_| false);
        assert_eq!(headers, Headers::default());
    }
}
