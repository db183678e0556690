//! The log of the schedulers in the file.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{SqliteBroker, publishing};
use crate::broker::{Fenced, LogEntry, Publication, ScheduleLog};
use crate::connection::sqlite::schedule_log;
use crate::error::Result;

impl ScheduleLog for SqliteBroker {
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, Result<()>> {
        self.call(schedule_log::append(entries.to_vec())).boxed()
    }

    fn read(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        let read = schedule_log::read(after);
        async move {
            let rows = self.call(read).await?;
            Ok(rows.into_iter().map(|(at, text)| LogEntry { at, text }).collect())
        }
        .boxed()
    }

    fn newer(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        self.read(after)
    }

    fn tail(&self) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        // The log is trimmed, so readers start at its beginning.
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn open_fence<'a>(&'a self, fence: &'a str, _closing: &'a [String]) -> BoxFuture<'a, Result<()>> {
        self.call(schedule_log::open_fence(fence.to_owned())).boxed()
    }

    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, Result<Fenced>> {
        async move {
            self.check_open("publish")?;
            let id = publication.message.id().unwrap_or_default().to_owned();
            let job = schedule_log::publish(publishing::of(publication)?, fence.to_owned(), entry.to_owned());
            Ok(if self.published(job, id).await? { Fenced::Published } else { Fenced::Closed })
        }
        .boxed()
    }

    fn trim(&self, before: u64) -> BoxFuture<'_, Result<()>> {
        self.call(schedule_log::trim(before)).boxed()
    }
}
