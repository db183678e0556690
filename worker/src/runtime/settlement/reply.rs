//! Replies to plain messages that ask for one.

use serde_json::Value;

use super::effect::Effect;
use super::outcome::failure;
use super::persist::{Abandoned, unless_impossible};
use super::settler::{MAX_ERROR, Settler};
use crate::broker::Publication;
use crate::error::{Error, TaskFailure};
use crate::message::headers::names;
use crate::message::history::shortened;
use crate::message::{Headers, JSON, Message, Properties};
use crate::task::Context;
use crate::tracing;

/// The content type of a text reply.
const TEXT: &str = "text/plain";

impl Settler {
    /// Replies to a plain message that asks for it, as in RabbitMQ's tutorial on remote procedure calls.
    pub(crate) async fn reply(&self, context: &Context, json: &[u8]) -> Result<(), Abandoned> {
        let asked_json =
            context.properties().content_type.as_deref().is_some_and(|kind| kind.starts_with(JSON));
        // A caller that did not send JSON gets plain text, without quotes.
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

    /// Reports to the waiting caller that there will be no reply.
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

    /// Sends a reply. The inner error, already logged, means that it can never be sent.
    async fn answer(
        &self,
        context: &Context,
        kind: &'static str,
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
        let mut publication = Publication::to_queue(&queue, message);
        // The caller may have gone.
        publication.mandatory = false;
        let answered =
            unless_impossible(self.retry_until_durable("send a reply", Effect::Publish(publication)).await)?;
        if let Err(error) = &answered {
            tracing::error!(id = context.id(), error = format!("{error:#}"), "cannot send the reply");
        }
        Ok(answered)
    }
}
