//! What callers are told: results for those who wait for a call or for a step after it, answers to plain messages.

use serde_json::Value;

use super::continuation;
use super::copy::to_queue;
use super::effect::Effect;
use super::outcome::failure;
use super::persist::{Abandoned, unless_impossible};
use super::settle::{MAX_ERROR, Settler};
use crate::backend::ResultRecord;
use crate::error::{Error, TaskFailure};
use crate::message::headers::names;
use crate::message::history::shortened;
use crate::message::{Headers, JSON, Message, Properties};
use crate::runtime::admission::gate::Request;
use crate::state::State;
use crate::task::Context;
use crate::tracing;

/// The content type of an answer that is a text.
const TEXT: &str = "text/plain";

impl Settler {
    pub(crate) fn wants_result(&self, request: &Request) -> bool {
        !request.context.headers().ignore_result().unwrap_or(request.options.ignore_result)
    }

    /// Tells whoever waits for this call, and for the steps after it, which are never reached.
    pub(crate) async fn store_for_all(
        &self,
        request: &Request,
        state: State,
        failure: &TaskFailure,
    ) -> Result<(), Abandoned> {
        let own = ResultRecord::failed(request.context.id(), state.clone(), failure.clone());
        self.store(request, &own).await?;
        for (id, reply_to) in continuation::never_reached(&request.embed) {
            let record = ResultRecord::failed(id, state.clone(), failure.clone());
            self.store_at(&record, reply_to.as_deref()).await?;
        }
        Ok(())
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
        tracing::error!(id = record.task_id, error = format!("{error:#}"), "the result cannot be stored");
        if error.is_too_large() {
            let smaller = smaller_record(record, &error);
            if let Err(error) = store(&smaller).await? {
                let error = format!("{error:#}");
                tracing::error!(id = record.task_id, error, "nor can it be said that there is none");
            }
        }
        Ok(())
    }

    /// Answers a plain message that asks for it, as in RabbitMQ's tutorial on remote procedure calls.
    pub(crate) async fn reply(&self, context: &Context, json: &[u8]) -> Result<(), Abandoned> {
        let asked_json =
            context.properties().content_type.as_deref().is_some_and(|kind| kind.starts_with(JSON));
        // Whoever did not speak JSON gets a text as a text, not in quotes.
        let text = match serde_json::from_slice(json) {
            Ok(Value::String(text)) if !asked_json => Some(text),
            _ => None,
        };
        let kind = if text.is_some() { TEXT } else { JSON };
        let body = text.map_or_else(|| json.to_vec(), String::into_bytes);
        match self.answer(context, kind, body, Headers::default()).await? {
            Err(error) if error.is_too_large() => {
                self.reply_failure(context, &failure("ResultTooLarge", format!("{error:#}"))).await
            }
            _ => Ok(()),
        }
    }

    /// Tells whoever waits for an answer that there will be none.
    pub(crate) async fn reply_failure(
        &self,
        context: &Context,
        failure: &TaskFailure,
    ) -> Result<(), Abandoned> {
        let answer = async |kind: &str, text: String| {
            let headers = [(names::ERROR.to_owned(), Value::from(kind))].into_iter().collect();
            self.answer(context, TEXT, text.into_bytes(), headers).await
        };
        match answer(&failure.kind, failure.message.clone()).await? {
            Err(error) if error.is_too_large() => {
                let (kind, text) = (shortened(&failure.kind, 100), shortened(&failure.message, MAX_ERROR));
                answer(&kind, text).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Sends an answer. The inner error, which was logged, says that it can never be sent.
    async fn answer(
        &self,
        context: &Context,
        kind: &str,
        body: Vec<u8>,
        headers: Headers,
    ) -> Result<Result<(), Error>, Abandoned> {
        let Some(queue) = context.properties().reply_to.clone() else { return Ok(Ok(())) };
        let properties = Properties {
            content_type: Some(kind.into()),
            content_encoding: Some("utf-8".into()),
            correlation_id: context.properties().correlation_id.clone(),
            transient: true,
            ..Properties::default()
        };
        let message = Message { properties, headers, body: body.into() };
        let mut publication = to_queue(&queue, message, None);
        // Whoever asked may have gone.
        publication.mandatory = false;
        let answered = unless_impossible(self.insist("answer", Effect::Publish(publication)).await)?;
        if let Err(error) = &answered {
            tracing::error!(id = context.id(), error = format!("{error:#}"), "the answer cannot be sent");
        }
        Ok(answered)
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
            };
            ResultRecord::failed(id, record.state.clone(), told)
        }
    }
}
