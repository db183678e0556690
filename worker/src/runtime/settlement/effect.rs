//! The effects of settling a message, one at a time: each is durable, or known to be impossible, before the next starts.

use futures_util::FutureExt;

use super::persist::{Service, Unsettled};
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
    /// Publishes to a queue that exists.
    Publish(Publication),
    /// Publishes to the route of a task; its queue may have to be created.
    Send { queue: Option<String>, publication: Publication },
    /// Publishes to the dead-letter queue of a queue.
    DeadLetter { of: &'a str, letter: Publication },
    /// Releases the lock of a unique task.
    Unlock(&'a Lock),
    /// Writes to the result backend.
    Store { record: &'a ResultRecord, reply_to: Option<&'a str> },
}

impl Effect<'_> {
    fn by(&self) -> Service {
        match self {
            Self::Store { .. } => Service::Store,
            _ => Service::Broker,
        }
    }
}

impl Settler {
    /// Publishes a copy of a message, with fewer headers if they are too large.
    pub(crate) async fn publish_copy<'a>(
        &self,
        request: &Request,
        what: &str,
        mut copy: TrimmedCopy,
        effect: impl Fn(Message) -> Effect<'a>,
    ) -> Result<(), Unsettled> {
        loop {
            match self.retry_until_durable(what, effect(copy.message())).await {
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

    /// If the queue was deleted since it was declared, makes the next attempt declare it again.
    fn forget_if_gone(&self, published: Result<()>) -> Result<()> {
        if published.as_ref().is_err_and(Error::is_unroutable) {
            self.app.forget_declared();
        }
        published
    }

    /// Retries an effect until it succeeds, proves impossible, or a cold shutdown starts.
    pub(crate) async fn retry_until_durable(&self, what: &str, effect: Effect<'_>) -> Result<(), Unsettled> {
        self.persist.until_done(what, effect.by(), || self.attempt(&effect).boxed()).await
    }
}
