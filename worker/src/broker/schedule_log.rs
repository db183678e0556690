//! The log that schedulers share, and publishing that only their leader can do.
//!
//! Two guarantees prevent a due time from being published twice. All readers see the log in the same order. And the leader
//! publishes a message together with its log entry in one step, which fails once another leader has closed its fence: a
//! scheduler that was paused for hours and still believes it is the leader publishes nothing.

use futures_util::future::BoxFuture;

use super::Publication;
use crate::error::Result;

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its position, which grows from entry to entry.
    pub at: u64,
    /// Its content.
    pub text: String,
}

/// The result of publishing behind a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fenced {
    /// The message is in its queue, and the entry in the log.
    Published,
    /// Another leader has closed the fence: nothing was published.
    Closed,
}

/// The log of the schedulers on a broker. Each future resolves within the configured timeout.
pub trait ScheduleLog: Send + Sync {
    /// Appends entries. `Ok` means that they are as durable as a message.
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// All entries after a position that were appended before this call; 0 is the beginning.
    fn read(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// The entries after a position that are visible now; one that is just being appended may not be returned until the next
    /// call.
    fn newer(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// Some of the last entries, which tell a reader where to start.
    fn tail(&self) -> BoxFuture<'_, Result<Vec<LogEntry>>>;

    /// Opens a fence and closes others. When this resolves, everything published behind the closed ones is in the log.
    fn open_fence<'a>(&'a self, fence: &'a str, closing: &'a [String]) -> BoxFuture<'a, Result<()>>;

    /// Publishes a message and appends an entry in one step, as long as the fence is open.
    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, Result<Fenced>>;

    /// Deletes the entries before a position, if the broker does not do that by itself.
    fn trim(&self, before: u64) -> BoxFuture<'_, Result<()>>;
}
