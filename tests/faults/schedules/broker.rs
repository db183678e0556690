//! The broker of a scheduler: logs who leads, and may be broken on purpose.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mq_worker::broker::{Broker, Fenced, LogEntry, Publication, ScheduleLog};

use crate::log::Event;
use crate::mutation::VARIABLE;
use crate::work::log;

/// How the broker is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// A new leader does not check which calls were sent: it relies on the last mark alone.
    NoOnceCheck,
    /// Leadership depends on the age of the last mark alone: a leader publishes without checking its fence, over a slow
    /// network, so that calls are always in flight when it is paused.
    AgeAlone,
}

const NAMES: [(&str, Mutation); 2] =
    [("no-once-check", Mutation::NoOnceCheck), ("age-alone", Mutation::AgeAlone)];

/// Longer than the interval between two batches of calls.
const SLOW: Duration = Duration::from_millis(1200);

/// The names of all mutations.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

/// Wraps the real broker.
pub(crate) fn wrap(inner: Arc<dyn Broker>) -> Arc<dyn Broker> {
    let wanted = std::env::var(VARIABLE).ok();
    let mutation = NAMES.iter().find(|(name, _)| wanted.as_deref() == Some(name)).map(|(_, found)| *found);
    Arc::new(Watched { inner, mutation })
}

struct Watched {
    inner: Arc<dyn Broker>,
    mutation: Option<Mutation>,
}

impl Watched {
    fn log(&self) -> &dyn ScheduleLog {
        self.inner.schedule_log().expect("both brokers keep schedules")
    }

    fn seen(&self, mut entries: Vec<LogEntry>) -> Vec<LogEntry> {
        if self.mutation == Some(Mutation::NoOnceCheck) {
            entries.retain(|entry| !is_sent(entry));
        }
        entries
    }
}

/// Returns true for an entry that records a sent call.
pub(crate) fn is_sent(entry: &LogEntry) -> bool {
    entry.text.starts_with("{\"sent\":")
}

/// Returns true for a mark: the leader is alive, and has sent all calls up to a time.
pub(crate) fn is_mark(entry: &LogEntry) -> bool {
    entry.text.starts_with("{\"mark\":")
}

impl ScheduleLog for Watched {
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, mq_worker::Result<()>> {
        self.log().append(entries)
    }

    fn read(&self, after: u64) -> BoxFuture<'_, mq_worker::Result<Vec<LogEntry>>> {
        Box::pin(async move { Ok(self.seen(self.log().read(after).await?)) })
    }

    fn newer(&self, after: u64) -> BoxFuture<'_, mq_worker::Result<Vec<LogEntry>>> {
        Box::pin(async move { Ok(self.seen(self.log().newer(after).await?)) })
    }

    fn tail(&self) -> BoxFuture<'_, mq_worker::Result<Vec<LogEntry>>> {
        Box::pin(async move { Ok(self.seen(self.log().tail().await?)) })
    }

    fn open_fence<'a>(
        &'a self,
        fence: &'a str,
        closing: &'a [String],
    ) -> BoxFuture<'a, mq_worker::Result<()>> {
        Box::pin(async move {
            self.log().open_fence(fence, closing).await?;
            log().write(Event::Leads { fence: fence.to_owned() });
            Ok(())
        })
    }

    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, mq_worker::Result<Fenced>> {
        if self.mutation != Some(Mutation::AgeAlone) {
            return self.log().publish(fence, publication, entry);
        }
        Box::pin(async move {
            tokio::time::sleep(SLOW).await;
            self.inner.publish(publication).await?;
            self.log().append(&[entry.to_owned()]).await?;
            Ok(Fenced::Published)
        })
    }

    fn trim(&self, before: u64) -> BoxFuture<'_, mq_worker::Result<()>> {
        self.log().trim(before)
    }
}

impl Broker for Watched {
    support::forward!(inner: capabilities declare publish consume get close);

    fn schedule_log(&self) -> Option<&dyn ScheduleLog> {
        Some(self)
    }
}

support::forward_administration!(Watched, inner);
