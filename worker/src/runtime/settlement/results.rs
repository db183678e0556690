//! Results: for callers that wait for a call, or for a step after it.

use super::continuation;
use super::effect::Effect;
use super::outcome::failure;
use super::persist::{Abandoned, unless_impossible};
use super::settler::{MAX_ERROR, Settler};
use crate::backend::ResultRecord;
use crate::error::{Error, TaskFailure};
use crate::message::history::shortened;
use crate::runtime::admission::request::Request;
use crate::state::State;
use crate::tracing;

impl Settler {
    /// Reports to callers that wait for this call, and for the steps after it, which are never reached.
    pub(crate) async fn store_for_all(
        &self,
        request: &Request,
        state: State,
        failure: &TaskFailure,
    ) -> Result<(), Abandoned> {
        let own = ResultRecord::failed(request.context.id(), state.clone(), failure.clone());
        let own = self.signed(request, own);
        self.store(request, &own).await?;
        for (id, reply_to) in continuation::never_reached(&request.embed) {
            let record = ResultRecord::failed(id, state.clone(), failure.clone());
            self.store_at(&record, reply_to.as_deref()).await?;
        }
        Ok(())
    }

    /// The record, with who ran the call.
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
        self.store_at(record, request.context.properties().reply_to.as_deref()).await
    }

    /// Stores a record, or a smaller one that says why it is not the result. What cannot be stored at all is left: the
    /// message itself must not wait for that.
    async fn store_at(&self, record: &ResultRecord, reply_to: Option<&str>) -> Result<(), Abandoned> {
        let store = async |record: &ResultRecord| {
            unless_impossible(self.insist("store a result", Effect::Store { record, reply_to }).await)
        };
        let Err(error) = store(record).await? else { return Ok(()) };
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

/// A record in place of one that is too large: a failure that says so, or the same failure in fewer words.
fn smaller_record(record: &ResultRecord, error: &Error) -> ResultRecord {
    let id = record.task_id.as_str();
    match &record.failure {
        None => {
            let told = failure("ResultTooLarge", format!("it succeeded, and its result is lost: {error:#}"));
            ResultRecord::failed(id, State::Failure, told)
        }
        Some(failure) => {
            let told = TaskFailure {
                kind: shortened(&failure.kind, 100),
                module: shortened(&failure.module, 100),
                message: shortened(&failure.message, MAX_ERROR),
                traceback: None,
                arguments: Vec::new(),
            };
            ResultRecord::failed(id, record.state.clone(), told)
        }
    }
}
