//! Why a delivery is not run.

/// Why a delivery is not run. The outcome is decided in `settlement::outcome`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// It is not a message that can be run.
    Malformed(String),
    /// No task of this worker takes it.
    UnknownTask(String),
    /// The arguments do not fit the task.
    BadArguments(String),
    /// Decoding the arguments, which is the task's own code, panicked.
    Panicked(String),
    /// It has caused this many crashes, or was suspected of them.
    Crashed(u32),
    /// It has expired (`expired`) or was cancelled (`revoked`).
    Revoked(&'static str),
}
