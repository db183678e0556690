//! The queue between the callers and the publishing task, and the way around it.
//!
//! While the publishing task is idle, it lends its channel: the next caller hands its message to `lapin` itself and then queues
//! it as written. That saves a thread switch before the message is sent. In a busy program nothing is lent, and messages are
//! written in batches.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Poll, ready};

use tokio::sync::mpsc;

use super::lock::lock;
use super::outgoing::Outgoing;
use super::publish_channel::Open;
use super::publish_job::{PublishJob, PublishRequest};
use super::writes::Writing;

/// How many callers may be queued; any more keep their messages and wait for a place.
pub(super) const QUEUED: usize = 1024;

/// The largest body that a caller writes itself. The channel is locked meanwhile, and the publishing task must not wait long.
const LARGEST: usize = 64 << 10;

/// The callers' end. Cheap to clone.
#[derive(Clone)]
pub(super) struct PublishQueue {
    pub(super) jobs: mpsc::Sender<PublishJob>,
    lent: Arc<Mutex<Option<Open>>>,
}

/// The publishing task's end.
pub(super) struct PublishInbox {
    jobs: mpsc::Receiver<PublishJob>,
    lent: Arc<Mutex<Option<Open>>>,
    lending: Lending,
}

/// What the publishing task knows about the channel that it lends.
#[derive(PartialEq, Eq)]
enum Lending {
    No,
    Lent,
    /// A caller has written a message, which is still in the queue.
    Used,
}

pub(super) fn publish_queue() -> (PublishQueue, PublishInbox) {
    let (sender, jobs) = mpsc::channel(QUEUED);
    let lent = Arc::default();
    (
        PublishQueue { jobs: sender, lent: Arc::clone(&lent) },
        PublishInbox { jobs, lent, lending: Lending::No },
    )
}

impl PublishQueue {
    /// Writes a message if the channel is lent. Otherwise it returns the request, to be queued.
    pub(super) fn write(&self, outgoing: &Arc<Outgoing>, request: PublishRequest) -> Option<PublishRequest> {
        // If it is locked, another caller is writing, or the task has something to do.
        if outgoing.body().len() <= LARGEST
            && let Ok(mut lent) = self.lent.try_lock()
            && let Some(open) = &*lent
            // Messages that were queued before this one are written before it.
            && self.jobs.capacity() == QUEUED
            && outgoing.check(open.frame_max).is_ok()
            && let Ok(place) = self.jobs.try_reserve()
        {
            let writing = Writing::begin(None, Arc::clone(&open.channel), Arc::clone(outgoing));
            *lent = None;
            place.send(PublishJob::Written(Arc::clone(outgoing), request, writing));
            return None;
        }
        Some(request)
    }
}

impl PublishInbox {
    /// Lends the channel to the next caller.
    pub(super) fn lend(&mut self, open: &Open) {
        if self.lending == Lending::No {
            *lock(&self.lent) = Some(open.clone());
            self.lending = Lending::Lent;
        }
    }

    /// Takes the channel back.
    pub(super) fn take_back(&mut self) {
        if self.lending == Lending::Lent {
            self.lending = once_taken_back(lock(&self.lent).take());
        }
    }

    /// True while a message that a caller has written is still in the queue. Nothing may be written meanwhile: publishes are
    /// numbered in the order in which they are written.
    pub(super) fn is_behind(&self) -> bool {
        self.lending == Lending::Used
    }

    /// Waits for jobs, takes up to `most` of them, and takes the channel back. Returns their number; 0 when all callers are gone.
    pub(super) async fn receive(&mut self, taken: &mut Vec<PublishJob>, most: usize) -> usize {
        let Self { jobs, lent, lending } = self;
        poll_fn(|context| {
            // Locked before the jobs leave the queue, so that no caller can write a message ahead of them.
            let mut lent = lock(lent);
            let count = ready!(jobs.poll_recv_many(context, taken, most));
            if *lending == Lending::Lent {
                *lending = once_taken_back(lent.take());
            }
            Poll::Ready(count)
        })
        .await;
        if self.is_behind() && taken.iter().any(|job| matches!(job, PublishJob::Written(..))) {
            self.lending = Lending::No;
        }
        taken.len()
    }
}

/// The state once the channel is taken back, or a caller turns out to have used it.
fn once_taken_back(lent: Option<Open>) -> Lending {
    match lent {
        Some(_) => Lending::No,
        None => Lending::Used,
    }
}
