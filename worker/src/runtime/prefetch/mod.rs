//! How many messages a worker may reserve: a fixed number, one for each slot, or as many as suit its tasks.

mod decide;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::decide::{LOOK, Measurement, Meter, decide};
use super::admission::pauses::Pauses;
use super::execution::slots::Slots;
use crate::app::Prefetch;
use crate::broker::ConsumerControl;
use crate::error::Result;
use crate::tracing;

/// The prefetch of one worker.
pub(crate) struct Window {
    setting: Prefetch,
    slots: Arc<Slots>,
    control: Arc<dyn ConsumerControl>,
    /// Wakes the pipe.
    pauses: Arc<Pauses>,
    /// How many deliveries may be unsettled.
    count: AtomicU16,
    /// Held during a change, so that the last change wins.
    changing: Mutex<()>,
    /// How many deliveries were given a slot.
    begun: AtomicU64,
    /// How many deliveries wait for a slot.
    waiting: AtomicUsize,
    /// The window has shrunk, and more deliveries may be waiting than fit into it.
    has_shrunk: AtomicBool,
}

impl Window {
    pub(crate) fn new(
        setting: Prefetch,
        slots: Arc<Slots>,
        control: Arc<dyn ConsumerControl>,
        pauses: Arc<Pauses>,
    ) -> Self {
        let count = setting.at_start(slots.all()).into();
        let (changing, begun, waiting, has_shrunk) = Default::default();
        Self { setting, slots, control, pauses, count, changing, begun, waiting, has_shrunk }
    }

    /// Returns the configured prefetch.
    pub(crate) fn setting(&self) -> Prefetch {
        self.setting
    }

    /// How many deliveries the worker may hold unsettled.
    pub(crate) fn count(&self) -> u16 {
        self.count.load(Ordering::Relaxed)
    }

    /// Counts a delivery that was given a slot.
    pub(crate) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    /// Records how many deliveries wait for a slot.
    pub(crate) fn wait(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Returns how many deliveries may wait, once after the window has shrunk; the rest must be returned.
    pub(crate) fn take_shrink(&self) -> Option<usize> {
        let has_shrunk = self.has_shrunk.swap(false, Ordering::AcqRel);
        has_shrunk.then(|| usize::from(self.count()).saturating_sub(self.slots.taken()))
    }

    /// Adapts to a changed number of slots, starting with one message for each slot. The count changes at once, the broker
    /// later.
    pub(crate) fn resize(self: &Arc<Self>) {
        if matches!(self.setting, Prefetch::Fixed(_)) {
            return;
        }
        self.count.store(self.setting.at_start(self.slots.all()), Ordering::Relaxed);
        let window = Arc::clone(self);
        // Ends when the broker has replied.
        tokio::spawn(async move {
            let _turn = window.changing.lock().await;
            if let Err(error) = window.control.set_prefetch(window.count()).await {
                tracing::warn!(error = format!("{error:#}"), "cannot change how many messages are reserved");
            } else if window.setting == Prefetch::Auto {
                window.fall();
            }
        });
    }

    /// Makes the pipe return the deliveries that no longer fit.
    fn fall(&self) {
        self.has_shrunk.store(true, Ordering::Release);
        self.pauses.touch();
    }

    /// Adapts the window to how fast tasks start, until `over`. Does nothing unless the prefetch is `auto`.
    pub(crate) async fn follow(self: Arc<Self>, over: CancellationToken) {
        if self.setting != Prefetch::Auto {
            return;
        }
        let mut meter = Meter::default();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = over.cancelled() => return,
                _ = looks.tick() => {}
            }
            let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
            let (begun, waiting) = (self.begun.load(Ordering::Relaxed), self.waiting.load(Ordering::Relaxed));
            let seen = meter.look(begun, waiting, passed, self.count());
            match self.adapt(&seen).await {
                Ok(Adapted::Same) => {}
                Ok(Adapted::Changed) => meter.reset_span(),
                Err(error) if error.is_unsupported() => {
                    tracing::warn!(
                        prefetch = self.count(),
                        "the broker cannot change how many messages are reserved"
                    );
                    return;
                }
                // The next measurement decides again.
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "cannot change how many messages are reserved yet"
                    );
                }
            }
        }
    }

    async fn adapt(&self, seen: &Measurement) -> Result<Adapted> {
        let _turn = self.changing.lock().await;
        let before = self.count();
        let after = decide(self.slots.all(), before, seen);
        if after == before {
            return Ok(Adapted::Same);
        }
        self.control.set_prefetch(after).await?;
        self.count.store(after, Ordering::Relaxed);
        tracing::debug!(before, after, waiting = seen.waiting, "prefetch changed");
        if after < before {
            self.fall();
        }
        Ok(Adapted::Changed)
    }
}

enum Adapted {
    Same,
    Changed,
}
