//! The outcomes of the last calls, if a result backend has them.

use futures_util::future::join_all;

use super::info::{RunOutcome, ScheduleInfo, ScheduledRun};
use crate::app::App;
use crate::backend::ResultRecord;
use crate::error::Result;
use crate::state::State;
use crate::tracing;

/// The most results that are read for a list of schedules; later ones are shown without an outcome.
const MOST: usize = 500;
/// How many are read at once.
const AT_ONCE: usize = 16;

impl App {
    /// The stored result of a call, if the result backend keeps results for processes other than the caller.
    pub(crate) async fn stored(&self, id: &str) -> Result<Option<ResultRecord>> {
        let backend = self.config().effective_result_backend();
        if matches!(backend.scheme().as_str(), "rpc" | "amqp" | "amqps" | "none") {
            return Ok(None);
        }
        let record = self.backend().await?.fetch(id).await?;
        Ok(record.filter(|record| record.state != State::Pending))
    }

    /// Adds the outcomes: of the last call of each schedule, or of all calls of a single one.
    pub(super) async fn add_outcomes(&self, schedules: &mut [ScheduleInfo]) {
        let each = if schedules.len() == 1 { usize::MAX } else { 1 };
        let mut runs: Vec<&mut ScheduledRun> = Vec::new();
        for schedule in schedules {
            runs.extend(schedule.runs.iter_mut().take(each));
        }
        runs.truncate(MOST);
        for runs in runs.chunks_mut(AT_ONCE) {
            let ids: Vec<String> = runs.iter().map(|run| run.id.clone()).collect();
            let records = join_all(ids.iter().map(|id| self.stored(id))).await;
            for (run, record) in runs.iter_mut().zip(records) {
                match record {
                    Ok(record) => run.outcome = record.map(outcome),
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(error, "the outcomes of scheduled calls cannot be read");
                        return;
                    }
                }
            }
        }
    }
}

fn outcome(record: ResultRecord) -> RunOutcome {
    RunOutcome {
        state: record.state.to_string(),
        at: record.done_at,
        error: record.failure.map(|failure| failure.to_string()),
    }
}
