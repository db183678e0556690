//! The slots among the running tasks, and those that are lost to functions that do not return.
//!
//! A plain function cannot be stopped. When its time limit passes, its message is settled all the same, and the slot
//! that its thread holds is written off until the function returns.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::show;
use crate::task::Context;
use crate::tracing;

/// The slots of one worker.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Arc<Semaphore>,
    all: usize,
    lost: watch::Sender<usize>,
}

impl Slots {
    /// This many slots, all free.
    pub(crate) fn new(all: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(all)), all, lost: watch::Sender::new(0) }
    }

    /// Waits for a slot, which is free again when what is returned is dropped.
    pub(crate) fn take(&self) -> impl Future<Output = OwnedSemaphorePermit> + use<> {
        let slot = Arc::clone(&self.free).acquire_owned();
        async { slot.await.expect("the semaphore is never closed") }
    }

    /// How many there are.
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// How many are taken, lost ones among them.
    pub(crate) fn taken(&self) -> usize {
        self.all - self.free.available_permits()
    }

    /// How many are lost at the moment.
    pub(crate) fn lost(&self) -> usize {
        *self.lost.borrow()
    }

    /// Gives up the slot of a thread, until the thread returns. Whatever it returns comes too late.
    pub(crate) fn write_off<T: Send + 'static>(self: &Arc<Self>, context: &Context, thread: JoinHandle<T>) {
        let (slots, context) = (Arc::clone(self), context.clone());
        slots.lost.send_modify(|lost| *lost += 1);
        tracing::warn!(
            task = context.task(),
            id = context.id(),
            lost = slots.lost(),
            of = slots.all,
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

    /// Resolves when all slots have been lost for so long without a break.
    pub(crate) async fn exhausted(&self, patience: Duration) {
        let mut lost = self.lost.subscribe();
        let gone = "the sender lives as long as the slots";
        loop {
            lost.wait_for(|lost| *lost == self.all).await.expect(gone);
            tracing::error!(
                slots = self.all,
                patience = %show::duration(patience),
                "every slot is lost to a plain function that does not return: no task can run; the worker stops \
                 unless one of them returns"
            );
            tokio::select! {
                () = tokio::time::sleep(patience) => return,
                back = lost.wait_for(|lost| *lost < self.all) => drop(back.expect(gone)),
            }
        }
    }
}
