//! Reads and writes the broker's registers: calls that have succeeded, and messages in quarantine.

use std::time::Duration;

use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::persist::{Abandoned, Service, unless_impossible};
use super::settler::Settler;
use crate::broker::{Note, Register};
use crate::error::Result;
use crate::message::Headers;
use crate::message::headers::names;
use crate::runtime::admission::request::Request;
use crate::tracing;

/// The namespace in which calls are hashed.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d71_776b_0000_5000_8000_6361_6c6c_6564);

impl Settler {
    /// True when the call has succeeded before, if its task asks for that to be remembered. Only a redelivered message is
    /// worth the query.
    pub(crate) async fn has_succeeded(&self, request: &Request) -> Result<bool, Abandoned> {
        let Some(lifetime) = request.options.once_for.filter(|_| request.may_have_run()) else {
            return Ok(false);
        };
        // Boxed: each task pays for the size of its future, and few query this.
        Box::pin(self.is_noted_as_done(request, lifetime)).await
    }

    async fn is_noted_as_done(&self, request: &Request, lifetime: Duration) -> Result<bool, Abandoned> {
        // Earlier versions noted the id alone.
        for id in [call_of(request), request.context.id().to_owned()] {
            let ask = || self.broker.is_noted(Register::Done, &id, lifetime);
            if self.register("read finished ids", ask).await?.unwrap_or(false) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Notes a success after everything else about it is durable: a worker that finds the note has nothing left to do.
    pub(crate) async fn remember(&self, request: &Request) -> Result<(), Abandoned> {
        let Some(lifetime) = request.options.once_for else { return Ok(()) };
        let note = Note::new(call_of(request), lifetime);
        Box::pin(self.register("record a finished id", || self.broker.note(Register::Done, &note)))
            .await
            .map(drop)
    }

    /// True if a quarantine of the message has started before, or if the broker cannot tell.
    pub(crate) async fn was_quarantined(&self, headers: &Headers) -> Result<bool, Abandoned> {
        let Some(quarantine) = quarantine_of(headers) else { return Ok(true) };
        let ask =
            || self.broker.is_noted(Register::Quarantined, &quarantine, Register::Quarantined.max_lifetime());
        Ok(self.register("read quarantine records", ask).await?.unwrap_or(true))
    }

    /// Notes that the quarantine of a message starts.
    pub(crate) async fn note_quarantine(&self, headers: &Headers) -> Result<(), Abandoned> {
        let Some(quarantine) = quarantine_of(headers) else { return Ok(()) };
        let note = Note::new(quarantine, Register::Quarantined.max_lifetime());
        self.register("note a quarantine", || self.broker.note(Register::Quarantined, &note)).await.map(drop)
    }

    /// Reads or writes a register. `None`: it is impossible, which was logged.
    async fn register<'a, T>(
        &self,
        what: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<Option<T>, Abandoned> {
        let done = unless_impossible(self.persist.until_done(what, Service::Broker, attempt).await)?;
        if let Err(error) = &done {
            tracing::error!(error = format!("{error:#}"), "the broker's registers cannot be used");
        }
        Ok(done.ok())
    }
}

/// Identifies a call. Its id alone does not: senders choose ids, and the success of one call must not keep another one with
/// the same id from running.
fn call_of(request: &Request) -> String {
    let context = &request.context;
    let call = [context.task().as_bytes(), &[0], &context.message().body].concat();
    format!("{}/{}", context.id(), Uuid::new_v5(&NAMESPACE, &call).simple())
}

/// Identifies a quarantine. `None`: a message without an id cannot be recognized. Includes the retries, because Celery's
/// workers drop unknown headers when they send a message again.
fn quarantine_of(headers: &Headers) -> Option<String> {
    let name = headers.get_str(names::QUARANTINE).unwrap_or_default();
    headers.id().map(|id| format!("{id}/{}/{name}", headers.retries()))
}
