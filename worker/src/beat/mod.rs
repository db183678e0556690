//! The scheduler: sends the calls of schedules when they are due. Any number of them may run; one of them leads.
//!
//! The leader is the scheduler that wrote the first `Lead` for its term into the shared log; it writes a heartbeat every
//! second. If there is none for [`LEASE`], another scheduler takes over: it closes the previous leader's fence and reads
//! the log to its end. Then it knows every call that was sent, and that no more can follow. A scheduler that was paused,
//! cut off or slow may still believe that it leads; what it publishes is refused.

mod clock;
mod leader;
mod plan;
mod sender;
mod unregistered;

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use self::clock::Clock;
use self::leader::{Ended, Leader, POLL};
use self::sender::{Sender, is_transient};
use crate::app::App;
use crate::app::schedules::{Entry, Origin, Reader, declared};
use crate::error::Result;
use crate::schedule::Schedule;
use crate::tracing;

/// How long a leader may be silent before another scheduler takes over.
const LEASE: Duration = Duration::from_secs(3);
/// The pause after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// A scheduler. Run as many as you like, in workers or on their own: each due time is sent once.
///
/// ```no_run
/// # async fn demo() -> mq_worker::Result<()> {
/// use mq_worker::{App, Beat};
///
/// let beat = Beat::new(App::global()?)?;
/// let handle = beat.handle();
/// tokio::spawn(async move {
///     tokio::signal::ctrl_c().await.ok();
///     handle.stop();
/// });
/// beat.run().await
/// # }
/// ```
pub struct Beat {
    app: App,
    declared: Vec<(Origin, Schedule)>,
    handle: BeatHandle,
    clock: Clock,
}

/// Stops a scheduler from elsewhere. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct BeatHandle(CancellationToken);

impl BeatHandle {
    /// Stops the scheduler: another one takes over at once.
    pub fn stop(&self) {
        self.0.cancel();
    }
}

impl std::fmt::Debug for Beat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beat").field("schedules", &self.declared.len()).finish_non_exhaustive()
    }
}

impl Beat {
    /// Creates a scheduler for all schedules on the broker. Those of this program's tasks and of its `mq-worker.toml` are written
    /// there when it runs.
    ///
    /// # Errors
    /// Fails on a mistake in one of the program's own schedules.
    pub fn new(app: App) -> Result<Self> {
        let declared = declared(&app)?;
        Ok(Self { app, declared, handle: BeatHandle::default(), clock: Clock::default() })
    }

    /// Returns a handle that stops this scheduler.
    pub fn handle(&self) -> BeatHandle {
        self.handle.clone()
    }

    /// Uses another clock, for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        self.clock = Clock::new(now);
        self
    }

    /// Runs until it is stopped. While the broker is unreachable, it keeps trying.
    ///
    /// # Errors
    /// Fails if a retry cannot help: on a mistake in the configuration, or a broker that keeps no schedules.
    pub async fn run(self) -> Result<()> {
        let stop = self.handle.0.clone();
        let warning = unregistered::warn(self.app.clone(), self.declared.clone());
        let _warning = AbortOnDropHandle::new(tokio::spawn(warning));
        let mut said = String::new();
        loop {
            let worked = tokio::select! {
                biased;
                worked = self.work(&stop) => worked,
                // A stopping leader gives up its term first. One that hangs on the broker cannot: return after the lease.
                () = async { stop.cancelled().await; sleep(LEASE).await } => return Ok(()),
            };
            match worked {
                Ok(()) => return Ok(()),
                Err(error) if is_transient(&error) => {
                    let text = format!("{error:#}");
                    if said != text {
                        tracing::warn!(error = text, "the scheduler failed, trying again");
                        said = text;
                    }
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Waits for its turn and leads, until it is stopped.
    async fn work(&self, stop: &CancellationToken) -> Result<()> {
        let broker = self.app.broker().await?;
        let mut reader = Reader::open(broker).await?;
        reader.declare(&self.declared, &self.app.program()).await?;
        let (mut signs, mut since) = (reader.state.signs, Instant::now());
        while !stop.is_cancelled() {
            if reader.state.signs != signs {
                (signs, since) = (reader.state.signs, Instant::now());
            }
            let is_free = reader.state.leader.is_none() || since.elapsed() > LEASE;
            if is_free && let Some(fence) = self.win(&mut reader).await? {
                tracing::info!(
                    leader = fence,
                    schedules = reader.state.kept().count(),
                    "this scheduler leads"
                );
                let sender = Sender { app: self.app.clone(), broker: self.app.broker().await?, fence };
                match Leader::new(sender, &mut reader, self.clock.clone()).lead(stop).await? {
                    Ended::Stopped => return Ok(()),
                    Ended::Deposed => {
                        tracing::warn!("another scheduler leads: this one was silent for too long")
                    }
                }
                since = Instant::now();
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = sleep(POLL) => {}
            }
            reader.follow().await?;
        }
        Ok(())
    }

    /// Becomes the leader and returns the fence, unless another scheduler was faster.
    async fn win(&self, reader: &mut Reader) -> Result<Option<String>> {
        let fence = Uuid::new_v4().simple().to_string();
        reader.append(&[Entry::Lead { leader: fence.clone(), term: reader.state.term + 1 }]).await?;
        reader.catch_up().await?;
        if reader.state.leader.as_ref() != Some(&fence) {
            return Ok(None);
        }
        let closing: Vec<String> =
            reader.state.fences.iter().filter(|other| **other != fence).cloned().collect();
        reader.log()?.open_fence(&fence, &closing).await?;
        // The other fences are closed: the log has everything that other leaders have sent, and nothing can follow.
        reader.catch_up().await?;
        Ok((reader.state.leader.as_ref() == Some(&fence)).then_some(fence))
    }
}
