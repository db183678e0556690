//! Tasks: what `#[task]` writes, how a worker finds and runs it, and what a task may return.

pub mod context;
pub mod error;
pub mod failed;
pub mod options;
pub mod registry;
pub(crate) mod stopping;

pub use context::{Context, SharedState};
pub use error::TaskError;
pub use failed::FailedTask;
pub use options::{AckMode, Backoff, TaskOptions};
pub use registry::{Registry, TaskEntry, Work};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A function that can be queued. Written by `#[task]`; the attribute turns `fn send_email` into a unit struct
/// `send_email` that implements this trait.
pub trait Task: Copy + Send + Sync + 'static {
    /// The name on the wire.
    const NAME: &'static str;
    /// What the attribute says about the task.
    const OPTIONS: TaskOptions;
    /// The arguments as a tuple (or [`NoArgs`](crate::message::NoArgs)): they are written as a JSON array.
    type Args: Serialize + Send + 'static;
    /// What the task returns when it succeeds.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// What makes a call of a unique task the same as another, as JSON; `None` for a task that is not unique.
    fn unique_by(args: &Self::Args) -> Option<Result<Vec<u8>, TaskError>> {
        let _ = args;
        None
    }
}
