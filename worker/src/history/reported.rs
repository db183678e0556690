//! What a call reports about itself while it runs.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::message::Progress;

/// What a call last reported with [`Context::progress`](crate::Context::progress) or
/// [`Context::set_state`](crate::Context::set_state).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reported {
    /// The state that it reported, such as `PROGRESS`.
    pub state: String,
    /// When it reported this.
    pub at: DateTime<Utc>,
    /// How much is done.
    pub current: Option<u64>,
    /// How much there is in total; 0 if unknown.
    pub total: Option<u64>,
    /// What is being done; for a state other than `PROGRESS`, its `meta` as text.
    pub description: Option<String>,
}

impl Reported {
    /// Its progress, if it reported any.
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
