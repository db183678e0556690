//! Which dead letters are meant.

use serde::{Deserialize, Serialize};

use crate::admin::dead::search::Which;

/// Which dead letters of a queue are meant; all of them if nothing is said.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Letters {
    pub(crate) id: Option<String>,
    pub(crate) task: Option<String>,
    /// The kind of the error, as the groups have it.
    pub(crate) kind: Option<String>,
}

impl Letters {
    /// As what is searched for in the dead-letter queue of a queue.
    pub(crate) fn of(&self, queue: &str) -> Which {
        let Self { id, task, kind } = self.clone();
        Which { queue: queue.to_owned(), id, task, kind, ..Which::default() }
    }
}
