//! The effects that settling a message has, one by one: each is durable before the next begins, or cannot be.

use futures_util::FutureExt;

use super::persist::{By, Unsettled};
use super::settler::Settler;
use super::trimmed_copy::TrimmedCopy;
use crate::backend::ResultRecord;
use crate::broker::{Lock, Publication};
use crate::error::{Error, Result};
use crate::message::Message;
use crate::runtime::admission::request::Request;
use crate::tracing;

/// One step that must be durable before the next.
pub(crate) enum Effect<'a> {
    /// To a queue that exists.
    Publish(Publication),
    /// To wherever a task goes; its queue may have to be created.
    Send { queue: Option<String>, publication: Publication },
    /// To the dead-letter queue of a queue.
    DeadLetter { of: &'a str, letter: Publication },
    /// Lets the next call of a unique task in.
    Unlock(&'a Lock),
    /// To the result backend.
    Store { record: &'a ResultRecord, reply_to: Option<&'a str> },
}

impl Effect<'_> {
    fn by(&self) -> By {
        match self {
            Self::Store { .. } => By::Store,
            _ => By::Broker,
        }
    }
}

impl Settler {
    /// Publishes a copy of a message; where its headers are too large, with fewer of them.
    pub(crate) async fn publish_copy<'a>(
        &self,
        request: &Request,
        what: &str,
        mut copy: TrimmedCopy,
        effect: impl Fn(Message) -> Effect<'a>,
    ) -> Result<(), Unsettled> {
        loop {
            match self.insist(what, effect(copy.message())).await {
                Err(Unsettled::Impossible(error)) if error.is_headers_too_large() && copy.trim() => {}
                done => {
                    if done.is_ok()
                        && let Some(dropped) = copy.dropped()
                    {
                        let (task, id) = (request.context.task(), request.context.id());
                        tracing::warn!(task, id, dropped, "the headers are too large: some were dropped");
                    }
                    return done;
                }
            }
        }
    }

    async fn attempt(&self, effect: &Effect<'_>) -> Result<()> {
        match effect {
            Effect::Publish(publication) => self.broker.publish(publication.clone()).await,
            Effect::Unlock(lock) => self.broker.unlock(lock).await,
            Effect::Store { record, reply_to } => self.backend.store(record, *reply_to).await,
            Effect::DeadLetter { of, letter } => {
                self.app.ensure_dead_letter_queue(of).await?;
                self.forget_if_gone(self.broker.publish(letter.clone()).await)
            }
            Effect::Send { queue, publication } => {
                if let Some(queue) = queue {
                    self.app.ensure_queue(queue).await?;
                }
                self.forget_if_gone(self.broker.publish(publication.clone()).await)
            }
        }
    }

    /// Somebody may have deleted a queue since it was declared: then the next attempt declares it again.
    fn forget_if_gone(&self, published: Result<()>) -> Result<()> {
        if published.as_ref().is_err_and(Error::is_unroutable) {
            self.app.forget_declared();
        }
        published
    }

    /// Tries an effect until it succeeds, cannot, or the worker stops cold.
    pub(crate) async fn insist(&self, what: &str, effect: Effect<'_>) -> Result<(), Unsettled> {
        self.persist.until_done(what, effect.by(), || self.attempt(&effect).boxed()).await
    }
}
