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
