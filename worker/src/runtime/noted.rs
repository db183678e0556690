//! What a worker asks and tells the broker's registers: which calls have succeeded, and which were run alone.

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::persist::{Abandoned, unless_impossible};
use super::request::Request;
use super::settle::Settler;
use crate::broker::{Note, Register};
use crate::error::Result;
use crate::message::Headers;
use crate::message::headers::names;
use crate::tracing;

/// Calls are hashed under this name.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_6361_6c6c_6564);

impl Settler {
    /// True when the task has succeeded before, as far as it asks that this be remembered. Only a message that comes again
    /// is worth the question.
    pub async fn has_succeeded(&self, request: &Request) -> Result<bool, Abandoned> {
        let Some(lifetime) = request.options.once_for.filter(|_| request.may_have_run()) else {
            return Ok(false);
        };
        // The id alone is what earlier versions noted.
        for id in [call_of(request), request.context.id().to_owned()] {
            let ask = || self.broker.is_noted(Register::Done, &id, lifetime);
            if self.register("read finished ids", ask).await?.unwrap_or(false) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes a success, after everything else about it is safe: whoever finds the note has nothing left to do.
    pub(super) async fn remember(&self, request: &Request) -> Result<(), Abandoned> {
        let Some(lifetime) = request.options.once_for else { return Ok(()) };
        let note = Note::new(call_of(request), lifetime);
        self.register("record a finished id", || self.broker.note(Register::Done, &note)).await.map(drop)
    }

    /// True when a message's trial has begun before: it was the one to blame. Also where nobody can tell.
    pub async fn was_tried(&self, headers: &Headers) -> Result<bool, Abandoned> {
        let Some(trial) = trial_of(headers) else { return Ok(true) };
        let ask = || self.broker.is_noted(Register::Tried, &trial, Register::Tried.longest());
        Ok(self.register("read quarantine records", ask).await?.unwrap_or(true))
    }

    /// Notes that a message's trial begins.
    pub async fn note_trial(&self, headers: &Headers) -> Result<(), Abandoned> {
        let Some(trial) = trial_of(headers) else { return Ok(()) };
        let note = Note::new(trial, Register::Tried.longest());
        self.register("note a trial", || self.broker.note(Register::Tried, &note)).await.map(drop)
    }

    /// Asks or tells a register. `None`: this can never be done, and that was said.
    async fn register<'a, T>(
        &self,
        what: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<Option<T>, Abandoned> {
        let done = unless_impossible(self.persist.until_done(what, attempt).await)?;
        if let Err(error) = &done {
            tracing::error!(error = format!("{error:#}"), "the broker's registers cannot be used");
        }
        Ok(done.ok())
    }
}

/// Names a call. Its id alone does not: senders choose ids, and what was done under one must not keep another call from
/// running.
fn call_of(request: &Request) -> String {
    let context = &request.context;
    let call = [context.task().as_bytes(), &[0], &context.message().body].concat();
    format!("{}/{}", context.id(), Uuid::new_v5(&NAMESPACE, &call).simple())
}

/// Names a trial. `None`: a message without an id is another one each time it comes. With the retries, as Celery's workers
/// drop headers that they do not know when they send a message again.
fn trial_of(headers: &Headers) -> Option<String> {
    let trial = headers.get_str(names::TRIAL).unwrap_or_default();
    headers.id().map(|id| format!("{id}/{}/{trial}", headers.retries()))
}
