//! A selection of dead letters.

use serde::{Deserialize, Serialize};

use crate::admin::dead::search::LetterFilter;

/// Selects dead letters of a queue; all of them if no field is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Letters {
    pub(crate) id: Option<String>,
    pub(crate) task: Option<String>,
    /// The kind of error, as in the groups on the page.
    pub(crate) kind: Option<String>,
}

impl Letters {
    /// Returns the search for these letters in the dead-letter queue of `queue`.
    pub(crate) fn of(&self, queue: &str) -> LetterFilter {
        let Self { id, task, kind } = self.clone();
        LetterFilter { queue: queue.to_owned(), id, task, kind, ..LetterFilter::default() }
    }
}
