//! The log of the schedulers of this process.

use futures_util::future::BoxFuture;

use super::MemoryBroker;
use crate::broker::{Fenced, LogEntry, Publication, ScheduleLog};
use crate::error::Result;

#[derive(Default)]
pub(super) struct Log {
    entries: Vec<LogEntry>,
    count: u64,
    fence: Option<String>,
}

impl Log {
    fn append(&mut self, text: &str) {
        self.count += 1;
        self.entries.push(LogEntry { at: self.count, text: text.to_owned() });
    }
}

impl ScheduleLog for MemoryBroker {
    fn append<'a>(&'a self, entries: &'a [String]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| entries.iter().for_each(|entry| state.log.append(entry)));
            Ok(())
        })
    }

    fn read(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        Box::pin(async move {
            self.owner.check_open()?;
            Ok(self.owner.hub.with(|state, _| {
                let from = state.log.entries.partition_point(|entry| entry.at <= after);
                state.log.entries[from..].to_vec()
            }))
        })
    }

    fn newer(&self, after: u64) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        self.read(after)
    }

    fn tail(&self) -> BoxFuture<'_, Result<Vec<LogEntry>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn open_fence<'a>(&'a self, fence: &'a str, _closing: &'a [String]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.log.fence = Some(fence.to_owned()));
            Ok(())
        })
    }

    fn publish<'a>(
        &'a self,
        fence: &'a str,
        publication: Publication,
        entry: &'a str,
    ) -> BoxFuture<'a, Result<Fenced>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, now| {
                if state.log.fence.as_deref() != Some(fence) {
                    return Ok(Fenced::Closed);
                }
                state.publish(publication, now)?;
                state.log.append(entry);
                Ok(Fenced::Published)
            })
        })
    }

    fn trim(&self, before: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            self.owner.check_open()?;
            self.owner.hub.with(|state, _| state.log.entries.retain(|entry| entry.at >= before));
            Ok(())
        })
    }
}
