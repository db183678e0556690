//! The slots of a worker, and those that are lost to functions that do not return.
//!
//! A plain function cannot be stopped. When its time limit passes, its message is settled anyway, and the slot that its
//! thread holds is written off until the function returns.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::show;
use crate::task::Context;
use crate::tracing;

/// The highest possible number of slots.
const MOST: usize = 1 << 20;

/// The slots of one worker.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    /// The intended number of slots.
    all: watch::Sender<usize>,
    /// How many permits exist, free or taken: more than `all` until the tasks in removed slots have ended.
    permits: AtomicUsize,
    lost: watch::Sender<usize>,
}

impl Slots {
    /// Creates this many slots, all free.
    pub(crate) fn new(all: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(all)),
            all: watch::Sender::new(all),
            permits: AtomicUsize::new(all),
            lost: watch::Sender::new(0),
        }
    }

    /// Waits for a slot. Dropping the permit frees it.
    pub(crate) fn take(&self) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let slot = Arc::clone(&self.free).acquire_owned();
        async { slot.await.expect("the semaphore is never closed") }
    }

    /// The number of slots, without those that are removed when their tasks end.
    pub(crate) fn all(&self) -> usize {
        *self.all.borrow()
    }

    /// Adds slots, up to the maximum; returns the new number.
    pub(crate) fn grow(self: &Arc<Self>, by: usize) -> usize {
        let added = by.min(MOST.saturating_sub(self.all()));
        self.all.send_modify(|all| *all += added);
        self.permits.fetch_add(added, Ordering::Relaxed);
        self.free.add_permits(added);
        self.all()
    }

    /// Removes slots, free ones at once and taken ones as their tasks end; returns the new number. One always stays: a
    /// worker without slots would keep its messages from other workers and run none.
    pub(crate) fn shrink(self: &Arc<Self>, by: usize) -> usize {
        let removed = by.min(self.all().saturating_sub(1));
        self.all.send_modify(|all| *all -= removed);
        let slots = Arc::clone(self);
        // Ends when the slots have been given up. A worker that stops does not wait for it.
        tokio::spawn(async move {
            for _ in 0..removed {
                slots.take().await.forget();
                slots.permits.fetch_sub(1, Ordering::Relaxed);
            }
        });
        self.all()
    }

    /// Takes a slot, if one is free and no other caller waits for it.
    pub(crate) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// How many slots are taken, including lost ones.
    pub(crate) fn taken(&self) -> usize {
        self.permits.load(Ordering::Relaxed).saturating_sub(self.free.available_permits())
    }

    /// How many slots are lost at the moment.
    pub(crate) fn lost(&self) -> usize {
        *self.lost.borrow()
    }

    /// Writes off the slot of a thread until the thread returns. Its result is discarded.
    pub(crate) fn write_off<T: Send + 'static>(self: &Arc<Self>, context: &Context, thread: JoinHandle<T>) {
        let (slots, context) = (Arc::clone(self), context.clone());
        slots.lost.send_modify(|lost| *lost += 1);
        tracing::warn!(
            task = context.task(),
            id = context.id(),
            lost = slots.lost(),
            of = slots.all(),
            "a plain function cannot be stopped: its slot is lost until it returns (`isolate` makes it killable)"
        );
        // Ends with the thread. Nothing waits for it: a worker that stops leaves such a thread behind.
        tokio::spawn(async move {
            let _ = thread.await;
            slots.lost.send_modify(|lost| *lost -= 1);
            tracing::info!(
                task = context.task(),
                id = context.id(),
                lost = slots.lost(),
                "returned long after its time limit: its slot is free again, its result is discarded"
            );
        });
    }

    /// Resolves when all slots have been lost for `patience` without a break.
    pub(crate) async fn exhausted(&self, patience: Duration) {
        let (mut lost, mut all) = (self.lost.subscribe(), self.all.subscribe());
        let gone = "the sender lives as long as the slots";
        loop {
            let count = *all.borrow_and_update();
            tokio::select! {
                lost = lost.wait_for(|lost| *lost >= count) => drop(lost.expect(gone)),
                changed = all.changed() => {
                    changed.expect(gone);
                    continue;
                }
            }
            tracing::error!(
                slots = count,
                patience = %show::duration(patience),
                "every slot is lost to a plain function that does not return: no task can run; the worker stops \
                 unless one of them returns"
            );
            tokio::select! {
                () = tokio::time::sleep(patience) => return,
                back = lost.wait_for(|lost| *lost < count) => drop(back.expect(gone)),
                changed = all.changed() => changed.expect(gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn slots_are_added_at_once_and_removed_as_they_become_free() {
        let slots = Arc::new(Slots::new(2));
        assert_eq!((slots.grow(1), slots.taken()), (3, 0));
        let (first, second, third) = (slots.take().await, slots.take().await, slots.take().await);
        assert_eq!(slots.taken(), 3);
        assert_eq!(slots.shrink(1), 2);
        drop(first);
        tokio::task::yield_now().await;
        assert_eq!((slots.free.available_permits(), slots.taken()), (0, 2));
        drop(second);
        assert_eq!(slots.taken(), 1);
        drop(slots.take().await);
        // One always stays.
        assert_eq!(slots.shrink(usize::MAX), 1);
        assert_eq!(slots.grow(usize::MAX), MOST);
        drop(third);
    }
}
