//! What a call says about itself while it runs.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::message::Progress;

/// What a call last said about itself: [`Context::progress`](crate::Context::progress) or
/// [`Context::set_state`](crate::Context::set_state).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The state that it gave itself, such as `PROGRESS`.
    pub state: String,
    /// When it said that.
    pub at: DateTime<Utc>,
    /// How much is done.
    pub current: Option<u64>,
    /// How much there is in all; 0 if that is not known.
    pub total: Option<u64>,
    /// What is being done; of another state than `PROGRESS`, what else it says, as text.
    pub description: Option<String>,
}

impl Reported {
    /// How far it is, if it says that.
    pub fn progress(&self) -> Option<Progress> {
        let description = self.description.as_deref().unwrap_or_default();
        Some(Progress::new(self.current?, self.total.unwrap_or_default(), description))
    }
}

/// `3 of 12 (25 %): resizing`, or `UPLOADING: {'file': 2}`.
impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(progress) = self.progress() {
            return progress.fmt(f);
        }
        match self.description.as_deref().filter(|text| !text.is_empty()) {
            Some(text) => write!(f, "{}: {text}", self.state),
            None => f.write_str(&self.state),
        }
    }
}
