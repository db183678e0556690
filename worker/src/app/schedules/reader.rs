//! Reads the schedule log and keeps its position.

use std::sync::Arc;

use super::entry::Entry;
use super::state::State;
use crate::broker::{Broker, LogEntry, ScheduleLog};
use crate::error::{Error, Result};
use crate::tracing;

/// The state up to a position in the log.
pub(crate) struct Reader {
    broker: Arc<dyn Broker>,
    pub(crate) state: State,
    pub(crate) place: u64,
}

impl Reader {
    /// Reads everything that was written before.
    pub(crate) async fn open(broker: Arc<dyn Broker>) -> Result<Self> {
        log_of(&*broker)?;
        let mut reader = Self { broker, state: State::default(), place: 0 };
        let bases = reader.log()?.tail().await?;
        let bases = bases.iter().filter_map(|entry| match serde_json::from_str(&entry.text) {
            Ok(Entry::Mark { base, .. }) => Some(base),
            _ => None,
        });
        reader.place = bases.max().unwrap_or(0);
        reader.catch_up().await?;
        Ok(reader)
    }

    pub(crate) fn log(&self) -> Result<&dyn ScheduleLog> {
        log_of(&*self.broker)
    }

    /// Applies everything that was written before this call; returns the names of the schedules that it changes.
    pub(crate) async fn catch_up(&mut self) -> Result<Vec<String>> {
        let entries = self.log()?.read(self.place).await?;
        Ok(self.apply(entries))
    }

    /// Applies the entries that are visible now.
    pub(crate) async fn follow(&mut self) -> Result<()> {
        let entries = self.log()?.newer(self.place).await?;
        self.apply(entries);
        Ok(())
    }

    /// Applies entries; returns the names of the schedules that they change.
    pub(crate) fn apply(&mut self, entries: Vec<LogEntry>) -> Vec<String> {
        let mut changed = Vec::new();
        for LogEntry { at, text } in entries {
            if at <= self.place {
                continue;
            }
            self.place = at;
            match serde_json::from_str::<Entry>(&text) {
                Ok(entry) => {
                    changed.extend(entry.changes().map(str::to_owned));
                    self.state.apply(at, entry);
                }
                Err(_) => {
                    tracing::debug!(at, "an entry in the log of schedules that this version does not know")
                }
            }
        }
        changed
    }

    pub(crate) async fn append(&self, entries: &[Entry]) -> Result<()> {
        let texts: Vec<String> = entries.iter().map(Entry::to_text).collect();
        self.log()?.append(&texts).await
    }
}

/// The log of a broker.
pub(crate) fn log_of(broker: &dyn Broker) -> Result<&dyn ScheduleLog> {
    broker
        .schedule_log()
        .ok_or_else(|| Error::unsupported(format!("{} keeps no schedules", broker.capabilities().name)))
}
