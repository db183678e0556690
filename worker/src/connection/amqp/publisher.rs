//! The callers' side of publishing: each hands its message to the one publishing task
//! ([`publishing`](super::publishing)), over the [`publish_queue`](super::publish_queue), and gets the outcome.
//!
//! | what happens | what the caller gets |
//! |---|---|
//! | confirmed and not returned | `Ok` |
//! | no queue takes it | unroutable |
//! | nack: queue full, being created, or electing a leader | published again for two seconds if for one queue, then rejected |
//! | the headers are larger than a frame | too large: nothing was written |
//! | the exchange does not exist, or the message is too large | its own error; the others are published again |
//! | no connection within the deadline, or the broker blocks publishers | an error: nothing was sent |
//! | written, but no confirm arrived | unknown, with the id under which it may be sent again |

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::link::{Link, closed};
use super::outgoing::Outgoing;
use super::publish_job::{PublishJob, PublishRequest, unknown};
use super::publish_queue::{PublishQueue, publish_queue};
use super::publishing::Publishing;
use super::runtime;
use crate::error::Result;

/// How long after its deadline a caller gives up by itself. The publishing task reports the timeout before that, unless
/// the I/O thread is blocked.
const REPLY_GRACE: Duration = Duration::from_secs(2);

/// Hands messages to the publishing task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Publisher {
    queue: PublishQueue,
    limit: Duration,
}

impl Publisher {
    /// Starts the publishing task. It ends when the last `Publisher` is dropped.
    pub(super) fn start(link: Arc<Link>, limit: Duration, handle: &tokio::runtime::Handle) -> Self {
        let (queue, inbox) = publish_queue();
        handle.spawn(async move { Publishing::new(link, inbox, limit).run().await });
        Self { queue, limit }
    }

    /// Publishes a message. `Ok` means that the broker has taken responsibility for it.
    pub(crate) async fn publish(&self, outgoing: impl Into<Arc<Outgoing>>) -> Result<()> {
        let outgoing = outgoing.into();
        let (reply, answer) = oneshot::channel();
        let request = PublishRequest { reply, deadline: Instant::now() + self.limit, refused: None };
        let limit = self.limit + REPLY_GRACE;
        let queued = match self.queue.write(&outgoing, request) {
            None => Ok(()),
            Some(request) => self.queue.jobs.try_send(PublishJob::Publish(Arc::clone(&outgoing), request)),
        };
        let answered = match queued {
            Ok(()) => runtime::timeout(limit, answer).await,
            // Boxed, as each publish pays for the size of this future, and the queue is seldom full.
            Err(TrySendError::Full(job)) => {
                let queued = async {
                    // An error drops the job, and its reply channel with it.
                    let _ = self.queue.jobs.send(job).await;
                    answer.await
                };
                Box::pin(runtime::timeout(limit, queued)).await
            }
            Err(TrySendError::Closed(_)) => return Err(closed()),
        };
        match answered {
            Ok(Ok(published)) => published,
            // The task outlives its senders. If it panics, a request sent at that moment is never answered, and the
            // time limit ends the wait.
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(unknown(&outgoing, "the I/O thread of this process does not answer")),
        }
    }

    /// Waits until everything published before is settled, or its time is up.
    pub(crate) async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        let flush = async {
            if self.queue.jobs.send(PublishJob::Flush(reply)).await.is_ok() {
                // No reply means that the task has ended after settling everything.
                runtime::answer(answer, self.queue.jobs.closed()).await;
            }
        };
        let _ = runtime::timeout(self.limit + REPLY_GRACE, flush).await;
    }
}
