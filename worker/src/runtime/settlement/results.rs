//! Stores results for callers that wait for a call, or for a step after it.

use std::time::{Duration, Instant};

use super::continuation;
use super::effect::Effect;
use super::outcome::failure;
use super::persist::{Abandoned, unless_impossible};
use super::settler::{MAX_ERROR, Settler};
use crate::backend::ResultRecord;
use crate::error::{Error, TaskFailure};
use crate::message::history::shortened;
use crate::runtime::admission::request::Request;
use crate::runtime::metrics::StoredAs;
use crate::show;
use crate::state::State;
use crate::tracing;

/// How long it may take to store a result that is not required.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Whether a message waits for its result to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

impl Settler {
    /// Stores a failure for callers that wait for this call, and for the steps after it, which are never reached.
    pub(crate) async fn store_for_all(
        &self,
        request: &Request,
        state: State,
        failure: &TaskFailure,
    ) -> Result<(), Abandoned> {
        let own = ResultRecord::failed(request.context.id(), state.clone(), failure.clone());
        let own = self.signed(request, own);
        self.store(request, &own).await?;
        let need = self.need_of(request);
        for (id, reply_to) in continuation::never_reached(&request.embed) {
            let record = ResultRecord::failed(id, state.clone(), failure.clone());
            self.store_at(&record, reply_to.as_deref(), need).await?;
        }
        Ok(())
    }

    /// Adds the worker, the retries and the children of the call to its record.
    pub(crate) fn signed(&self, request: &Request, record: ResultRecord) -> ResultRecord {
        let context = &request.context;
        let mut children = context.reports().children();
        children.extend(record.children);
        ResultRecord {
            worker: Some(self.worker.clone()),
            retries: Some(context.retries()),
            children,
            ..record
        }
    }

    pub(crate) async fn store(&self, request: &Request, record: &ResultRecord) -> Result<(), Abandoned> {
        let reply_to = request.context.properties().reply_to.as_deref();
        self.store_at(record, reply_to, self.need_of(request)).await
    }

    fn need_of(&self, request: &Request) -> Need {
        let is_required = request.options.result_required.unwrap_or(self.app.config().result_required);
        if is_required { Need::Required } else { Need::Optional }
    }

    /// Stores a record, or a smaller one that says why it is not the result. If neither can be stored, it is left out: the
    /// message itself must not wait for that.
    async fn store_at(
        &self,
        record: &ResultRecord,
        reply_to: Option<&str>,
        need: Need,
    ) -> Result<(), Abandoned> {
        if need == Need::Optional {
            // Boxed: each task pays for the size of its future, and few take this path.
            Box::pin(self.store_if_possible(record, reply_to)).await;
            return Ok(());
        }
        let store = async |record: &ResultRecord| {
            unless_impossible(
                self.retry_until_durable("store a result", Effect::Store { record, reply_to }).await,
            )
        };
        let begun = self.metrics.is_on().then(Instant::now);
        let Err(error) = store(record).await? else {
            begun.into_iter().for_each(|begun| self.metrics.result(StoredAs::Stored, begun.elapsed()));
            return Ok(());
        };
        self.metrics.result(StoredAs::Failed, Duration::ZERO);
        tracing::error!(id = record.task_id, error = format!("{error:#}"), "cannot store the result");
        if error.is_too_large() {
            let smaller = smaller_record(record, &error);
            if let Err(error) = store(&smaller).await? {
                let error = format!("{error:#}");
                tracing::error!(
                    id = record.task_id,
                    error,
                    "cannot store an error in place of the result either"
                );
            }
        }
        Ok(())
    }
}

impl Settler {
    /// Stores a record unless the backend is away or slow. The task is then acked without it.
    async fn store_if_possible(&self, record: &ResultRecord, reply_to: Option<&str>) {
        let begun = Instant::now();
        let problem = match self.backend_away.is_known(begun) {
            true => "the store was away a moment ago".to_owned(),
            false => match tokio::time::timeout(TIMEOUT, self.backend.store(record, reply_to)).await {
                Ok(Ok(())) => return self.metrics.result(StoredAs::Stored, begun.elapsed()),
                Ok(Err(error)) if error.is_too_large() => {
                    let smaller = smaller_record(record, &error);
                    let _ = tokio::time::timeout(TIMEOUT, self.backend.store(&smaller, reply_to)).await;
                    format!("{error:#}")
                }
                Ok(Err(error)) => {
                    self.backend_away.note();
                    format!("{error:#}")
                }
                Err(_) => {
                    self.backend_away.note();
                    format!("no answer within {}", show::duration(TIMEOUT))
                }
            },
        };
        self.metrics.result(StoredAs::Skipped, Duration::ZERO);
        let (id, state) = (&record.task_id, &record.state);
        tracing::warn!(id, %state, problem, "left out a result (`result_required` is off)");
    }
}

/// Replaces a record that is too large: with a failure that says so, or with the same failure shortened.
fn smaller_record(record: &ResultRecord, error: &Error) -> ResultRecord {
    let id = record.task_id.as_str();
    match &record.failure {
        None => {
            let lost = failure("ResultTooLarge", format!("it succeeded, and its result is lost: {error:#}"));
            ResultRecord::failed(id, State::Failure, lost)
        }
        Some(failure) => {
            let shorter = TaskFailure {
                kind: shortened(&failure.kind, 100),
                module: shortened(&failure.module, 100),
                message: shortened(&failure.message, MAX_ERROR),
                traceback: None,
                arguments: Box::default(),
            };
            ResultRecord::failed(id, record.state.clone(), shorter)
        }
    }
}
