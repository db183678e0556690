//! Limits the number of series: calls may have any name.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

/// How many tasks and queues have their own series; the others share one.
pub(super) const NAMES: usize = 200;
/// The name that the others share.
pub(super) const OTHER: &str = "other";

/// The names that have their own series: the first ones to appear.
#[derive(Debug, Default)]
pub(super) struct Names(RwLock<HashSet<String>>);

impl Names {
    /// The name, or [`OTHER`] once there are too many.
    pub(super) fn bounded(&self, name: &str) -> String {
        if name.is_empty() {
            return "unknown".into();
        }
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if known.contains(name) {
            return name.into();
        }
        let is_full = known.len() >= NAMES;
        drop(known);
        if is_full {
            return OTHER.into();
        }
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have taken the last place.
        if known.len() >= NAMES {
            return OTHER.into();
        }
        known.insert(name.to_owned());
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_so_many_names_all_are_other() {
        let names = Names::default();
        for index in 0..NAMES {
            assert_eq!(names.bounded(&format!("t{index}")), format!("t{index}"));
        }
        assert_eq!((names.bounded("one more"), names.bounded("t7")), (OTHER.into(), "t7".into()));
    }
}
