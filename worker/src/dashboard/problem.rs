//! Something that is wrong, for people.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Work stands still.
    Error,
    /// Work is at risk.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) title: String,
    /// The way out.
    pub(crate) hint: String,
    /// The page that tells more, as a path.
    pub(crate) link: Option<String>,
}
