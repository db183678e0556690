//! What schedulers share: a log in one order, and messages that only its leader can publish.
//!
//! Two promises make a due time never come twice. The log has one order for everybody who reads it. And publishing as a
//! leader is one step with the entry that says so, which fails once another leader has closed the fence: a scheduler
//! that was paused for hours and still believes to lead publishes nothing.

use futures_util::future::BoxFuture;

use super::Publication;
use crate::error::Result;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place: grows from entry to entry.
    pub at: u64,
    /// What it says.
    pub text: String,
}

/// What became of a message that was published behind a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// The message is in its queue, and the entry in the log.
    Published,
    /// Another leader has closed the fence: nothing was published.
    Closed,
}

/// The log of the schedulers on a broker. Each future ends within the configured deadline.
pub trait ScheduleLog: Send + Sync {
    /// Adds entries at the end. `Ok` means that they are as safe as a message.
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// All entries after a place that were appended before this call; 0 is the beginning.
    fn read(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// The entries after a place that are visible now; one that is just being appended may come the next time.
    fn newer(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// Some of the last entries: where a reader finds out from where to read.
    fn tail(&self) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// Opens a fence and closes others. When this returns, whatever was published behind those is in the log.
    fn open_fence<'a>(&'a self, fence: &'a str, closing: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// Publishes a message and appends an entry in one step, as long as the fence is open.
    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, Result<Fenced>>;

    /// Forgets the entries before a place, where the broker does not do that by itself.
    fn trim(&self, before: u64) -> BoxFuture<'_, Result<()>>;
}
