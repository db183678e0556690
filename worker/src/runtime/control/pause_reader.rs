//! Reads what is paused, before the first message and from then on, and consumes the queues that are not.

use std::sync::Arc;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use tokio_util::sync::CancellationToken;

use crate::app::pause::in_force;
use crate::broker::{Broker, ConsumerControl, Register};
use crate::error::Result;
use crate::runtime::admission::pauses::Pauses;
use crate::runtime::handle::WorkerHandle;
use crate::runtime::sources::Sources;
use crate::runtime::startup::{NotReady, RetryPause};
use crate::tracing;

/// How long to wait after the broker failed to change a consumer.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest sleep until a pause ends, as the clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(60);

/// Reads the register of pauses again and again.
pub(crate) struct PauseReader {
    broker: Arc<dyn Broker>,
    pub(crate) pauses: Arc<Pauses>,
    /// All queues of the worker.
    sources: Arc<Sources>,
    /// False if the broker has no register.
    is_kept: bool,
}

impl PauseReader {
    pub(crate) fn new(broker: Arc<dyn Broker>, sources: Arc<Sources>) -> Self {
        Self { broker, pauses: Arc::default(), sources, is_kept: true }
    }

    /// Reads what was paused before this worker started, waiting for an unreachable broker.
    pub(crate) async fn catch_up(&mut self, handle: &WorkerHandle) -> Result<(), NotReady> {
        let mut patience = RetryPause::default();
        loop {
            let error = tokio::select! {
                biased;
                () = handle.warm.cancelled() => return Err(NotReady::Stopped),
                read = self.read() => match read {
                    Ok(()) => break,
                    Err(error) => error,
                },
            };
            if error.is_unsupported() || error.is_access_refused() {
                tracing::debug!(error = format!("{error:#}"), "this broker stores no pauses");
                self.is_kept = false;
                break;
            }
            patience.pause("read what is paused", &error, handle).await;
        }
        let (open, queues) = (self.open(), self.sources.queues());
        let paused: Vec<&str> =
            queues.iter().filter(|queue| !open.contains(queue)).map(String::as_str).collect();
        if !paused.is_empty() {
            let queues = paused.join(",");
            tracing::warn!(queues, "paused: not consumed until they are resumed (`mq-worker resume`)");
        }
        self.detached(&open);
        Ok(())
    }

    /// The queues to consume at present.
    pub(crate) fn open(&self) -> Vec<String> {
        self.pauses.open(&self.sources.queues())
    }

    fn detached(&self, open: &[String]) {
        let detached = self.sources.queues().into_iter().filter(|queue| !open.contains(queue));
        self.pauses.set_detached(detached.collect());
    }

    /// Reads the whole register, which is small and changes rarely. On some brokers a resume removes its entry, which a
    /// reader that continues from its last position would not notice.
    async fn read(&self) -> Result<()> {
        if !self.is_kept {
            return Ok(());
        }
        let found = self.broker.newer_notes(Register::Paused, 0).await?;
        self.pauses.replace(in_force(found.notes, Utc::now()));
        Ok(())
    }

    /// Follows the register, and attaches the consumer to the queues that are not paused, until `over`. `attached` are its
    /// current queues. Reads every `period`, and when a change may have been missed.
    pub(crate) async fn follow(
        self,
        control: Arc<dyn ConsumerControl>,
        mut attached: Vec<String>,
        period: Duration,
        over: CancellationToken,
    ) {
        loop {
            let open = self.open();
            let attach = async || match open == attached {
                true => Ok(()),
                false => control.set_queues(open.clone()).await,
            };
            let sleep = match attach().await {
                Ok(()) => {
                    if open != attached {
                        self.log(&attached, &open);
                        self.detached(&open);
                        attached = open;
                    }
                    self.until_next_end().min(period)
                }
                Err(error) => {
                    tracing::debug!(error = format!("{error:#}"), "cannot change the consumed queues yet");
                    AGAIN
                }
            };
            tokio::select! {
                () = over.cancelled() => return,
                () = self.pauses.missed() => {}
                () = tokio::time::sleep(sleep) => {}
            }
            // An announced change takes effect before the register is read, which takes RabbitMQ a moment.
            if sleep != AGAIN && self.open() != attached {
                self.pauses.look();
                continue;
            }
            let read = tokio::select! {
                () = over.cancelled() => return,
                read = self.read() => read,
            };
            if let Err(error) = read {
                tracing::debug!(error = format!("{error:#}"), "cannot read what is paused");
            }
        }
    }

    /// Logs a change.
    fn log(&self, before: &[String], after: &[String]) {
        for queue in before.iter().filter(|queue| !after.contains(queue)) {
            let until =
                self.pauses.end_of_queue(queue).map(|end| end.to_rfc3339_opts(SecondsFormat::Secs, true));
            tracing::info!(queue, until, "paused: not consumed until it is resumed");
        }
        for queue in after.iter().filter(|queue| !before.contains(queue)) {
            tracing::info!(queue, "resumed: consumed again");
        }
    }

    fn until_next_end(&self) -> Duration {
        let left = self.pauses.next_end().and_then(|end| (end - Utc::now()).to_std().ok());
        // Slightly longer: the pause must have expired by then.
        left.map_or(LONGEST, |left| left + Duration::from_millis(2)).min(LONGEST)
    }
}
