//! A problem, described for operators.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Work has stopped.
    Error,
    /// Work is at risk.
    Warning,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) title: String,
    /// The cause, or what to do about it.
    pub(crate) hint: String,
    /// The path of the page with more details.
    pub(crate) link: Option<String>,
}
