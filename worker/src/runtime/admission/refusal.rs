//! Why a delivery is not run.

/// Why a delivery is not run. What follows from that is for `settlement::outcome` to decide.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Refusal {
    /// It is not a message that can be run.
    Malformed(String),
    /// No task of this worker takes it.
    UnknownTask(String),
    /// The arguments do not fit the task.
    BadArguments(String),
    /// Decoding the arguments panicked, which is the task's own code.
    Panicked(String),
    /// It has caused this many crashes, or was suspected of them.
    Crashed(u32),
    /// It is too late for it (`expired`), or it was cancelled (`revoked`).
    Revoked(&'static str),
}
