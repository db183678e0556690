//! Makes effects durable before the next step: retries them as long as that can help, and no longer.
//!
//! Transient errors (the broker is away or busy, the disk is full) are retried until they pass. Refusals are retried for a
//! while: a full queue may soon have room. Permanent errors are not retried; the caller has a defined outcome for them, so
//! that no slot is ever held by a message that cannot be settled.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Persistence, Result};
use crate::tracing;

/// How long an effect that the broker refuses is retried.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// The pause between two attempts, at first and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// An attempt that is unanswered for this long is listed.
const SLOW: Duration = Duration::from_secs(1);

/// The service that has to make an effect durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Broker,
    /// The result backend.
    Store,
}

/// Why an effect is not durable.
#[derive(Debug)]
pub(crate) enum Unsettled {
    /// The cold shutdown came first: the message is requeued.
    Abandoned,
    /// It can never be done.
    Impossible(Error),
}

/// The cold shutdown came before an effect was durable: the message is requeued instead.
pub(crate) struct Abandoned;

impl From<Abandoned> for Unsettled {
    fn from(Abandoned: Abandoned) -> Self {
        Self::Abandoned
    }
}

/// Separates impossible effects from a cold shutdown, which every caller passes on.
pub(crate) fn unless_impossible<T>(done: Result<T, Unsettled>) -> Result<Result<T, Error>, Abandoned> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Unsettled::Impossible(error)) => Ok(Err(error)),
        Err(Unsettled::Abandoned) => Err(Abandoned),
    }
}

/// Retries effects until they are durable, prove impossible, or a cold shutdown starts.
pub(crate) struct Persist {
    /// Fires at a cold shutdown, which ends all retries.
    pub(crate) cold: CancellationToken,
    /// Lists the effects that are being retried.
    pub(crate) settling: Arc<Settling>,
    /// How long an effect that the broker refuses is retried.
    patience: Duration,
}

impl Persist {
    /// Retries effects until `cold` fires, and lists those that wait.
    pub(crate) fn new(cold: CancellationToken, settling: Arc<Settling>) -> Self {
        Self { cold, settling, patience: REFUSED_FOR }
    }

    /// Retries until the attempt succeeds or retrying cannot help. `what` completes "cannot …".
    pub(crate) async fn until_done<'a, T>(
        &self,
        what: &str,
        by: Service,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T, Unsettled> {
        let begun = Instant::now();
        let (mut pause, longest) = PAUSE;
        let mut refused_since = None;
        let mut listed = None;
        loop {
            let error = tokio::select! {
                biased;
                done = self.listed_if_slow(what, by, &mut listed, begun, attempt()) => match done {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                },
                () = self.cold.cancelled() => return Err(Unsettled::Abandoned),
            };
            let is_over = match error.persistence() {
                Persistence::Passing => {
                    refused_since = None;
                    false
                }
                Persistence::Refused => {
                    refused_since.get_or_insert_with(Instant::now).elapsed() + pause >= self.patience
                }
                Persistence::Permanent => true,
            };
            if is_over {
                return Err(Unsettled::Impossible(error.context(format_args!("cannot {what}"))));
            }
            let text = format!("{error:#}");
            tracing::warn!(error = text, again_in = ?pause, "cannot {what}");
            listed
                .get_or_insert_with(|| self.settling.enter(by, begun))
                .failed(format!("cannot {what}: {text}"));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.cold.cancelled() => return Err(Unsettled::Abandoned),
            }
            pause = (pause * 2).min(longest);
        }
    }

    /// Runs an attempt, and lists it while it takes long. Attempts at the broker are watched elsewhere.
    async fn listed_if_slow<'a, T>(
        &'a self,
        what: &str,
        by: Service,
        listed: &mut Option<Entry<'a>>,
        begun: Instant,
        attempt: BoxFuture<'_, Result<T>>,
    ) -> Result<T> {
        if by == Service::Broker || listed.is_some() {
            return attempt.await;
        }
        let mut attempt = attempt;
        match tokio::time::timeout(SLOW, &mut attempt).await {
            Ok(done) => done,
            Err(_) => {
                listed.insert(self.settling.enter(by, begun)).failed(format!("no answer yet to: {what}"));
                attempt.await
            }
        }
    }
}

/// The messages whose outcome was not settled at the first attempt, or takes long, for health checks and remote control.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    /// The address of the broker, for display.
    broker: String,
    /// The address of the result backend.
    store: String,
    listed: Mutex<Listed>,
}

#[derive(Debug, Default)]
struct Listed {
    next: u64,
    /// In order of arrival.
    entries: BTreeMap<u64, Retrying>,
}

#[derive(Debug)]
struct Retrying {
    by: Service,
    since: Instant,
    reason: String,
}

/// How many messages are being settled, and details of the one that has taken longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slowest {
    pub(crate) count: usize,
    /// For how long the slowest one has been tried.
    pub(crate) lasts: Duration,
    /// Why its last attempt has not succeeded.
    pub(crate) reason: String,
    /// The broker or result backend that it waits for.
    pub(crate) waits_for: String,
}

impl Settling {
    /// Creates a list for this broker and this result backend.
    pub(crate) fn new(broker: String, store: String) -> Self {
        Self { broker, store, listed: Mutex::default() }
    }

    fn enter(&self, by: Service, since: Instant) -> Entry<'_> {
        let mut listed = self.lock();
        listed.next += 1;
        let number = listed.next;
        listed.entries.insert(number, Retrying { by, since, reason: String::new() });
        Entry { list: self, number }
    }

    /// `None` when nothing waits to be settled.
    pub(crate) fn slowest(&self) -> Option<Slowest> {
        let listed = self.lock();
        let Retrying { by, since, reason } = listed.entries.values().min_by_key(|effort| effort.since)?;
        let waits_for = match by {
            Service::Broker => &self.broker,
            Service::Store => &self.store,
        };
        let (lasts, reason, waits_for) = (since.elapsed(), reason.clone(), waits_for.clone());
        Some(Slowest { count: listed.entries.len(), lasts, reason, waits_for })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Listed> {
        // A panic elsewhere leaves the list intact.
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listed message. Dropping this removes it from the list.
struct Entry<'a> {
    list: &'a Settling,
    number: u64,
}

impl Entry<'_> {
    fn failed(&self, reason: String) {
        if let Some(entry) = self.list.lock().entries.get_mut(&self.number) {
            entry.reason = reason;
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.list.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;

    use super::*;
    use crate::error::ErrorKind;

    fn persist() -> Persist {
        let patience = Duration::from_millis(400);
        Persist { patience, ..Persist::new(CancellationToken::new(), Arc::default()) }
    }

    /// How many attempts were made if the first ones fail in these ways, and the result.
    async fn attempts(failures: &[ErrorKind]) -> (usize, Result<(), Unsettled>) {
        let persist = persist();
        let count = AtomicUsize::new(0);
        let attempt = || {
            let failure = failures.get(count.fetch_add(1, Ordering::Relaxed)).cloned();
            let done = failure.map_or(Ok(()), |kind| Err(Error::new(kind, "no")));
            async move { done }.boxed()
        };
        let done = persist.until_done("test", Service::Broker, attempt).await;
        assert_eq!(persist.settling.slowest(), None);
        (count.into_inner(), done)
    }

    #[tokio::test]
    async fn what_passes_is_tried_for_as_long_as_it_takes() {
        let passing =
            [ErrorKind::Connection, ErrorKind::Timeout, ErrorKind::Storage, ErrorKind::LoginRefused];
        // Together longer than a refusal is retried.
        let (count, done) = attempts(&passing).await;
        assert!(done.is_ok() && count == 5, "{count}");
    }

    #[tokio::test]
    async fn what_is_refused_is_tried_for_a_while() {
        let refused = [ErrorKind::Rejected, ErrorKind::Unroutable, ErrorKind::Topology];
        for kind in refused {
            assert!(matches!(attempts(&[kind.clone(), kind.clone()]).await, (3, Ok(()))));
            let (count, done) = attempts(&vec![kind; 100]).await;
            assert!(matches!(done, Err(Unsettled::Impossible(_))) && (3..=4).contains(&count), "{count}");
        }
    }

    #[tokio::test]
    async fn what_is_permanent_is_tried_once() {
        for kind in [
            ErrorKind::TooLarge,
            ErrorKind::HeadersTooLarge,
            ErrorKind::Config,
            ErrorKind::Codec,
            ErrorKind::Unsupported,
        ] {
            let (count, done) = attempts(&[kind]).await;
            assert!(matches!(done, Err(Unsettled::Impossible(_))) && count == 1, "{count}");
        }
        let (count, done) = attempts(&[ErrorKind::Connection, ErrorKind::TooLarge]).await;
        assert!(matches!(done, Err(Unsettled::Impossible(_))) && count == 2, "{count}");
    }

    #[tokio::test]
    async fn what_waits_is_listed_with_the_reason() {
        let settling = Arc::new(Settling::new("amqp://b".into(), "redis://s".into()));
        let persist = Persist { settling, ..persist() };
        let attempt = || async { Err::<(), _>(Error::timeout("no answer")) }.boxed();
        let waiting = persist.until_done("store it", Service::Store, attempt);
        tokio::pin!(waiting);
        assert!((&mut waiting).now_or_never().is_none());
        let slowest = persist.settling.slowest().expect("it waits");
        assert_eq!((slowest.count, slowest.reason.as_str()), (1, "cannot store it: no answer"));
        assert_eq!(slowest.waits_for, "redis://s");
        persist.cold.cancel();
        assert!(matches!(waiting.await, Err(Unsettled::Abandoned)));
        assert_eq!(persist.settling.slowest(), None);
    }

    #[tokio::test]
    async fn a_store_that_is_slow_is_listed_before_it_answers() {
        let persist = persist();
        let answers = tokio::sync::Notify::new();
        let attempt = || {
            async {
                answers.notified().await;
                Ok(())
            }
            .boxed()
        };
        let waiting = persist.until_done("store it", Service::Store, attempt);
        let listed = async {
            loop {
                if let Some(slowest) = persist.settling.slowest() {
                    answers.notify_one();
                    return slowest.reason;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (done, reason) = tokio::join!(waiting, listed);
        assert!(done.is_ok() && reason == "no answer yet to: store it", "{reason}");
        assert_eq!(persist.settling.slowest(), None);
    }
}
