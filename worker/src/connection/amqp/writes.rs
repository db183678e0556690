//! Publishes in flight: written to the socket in order, then waiting for their confirms.
//!
//! `lapin` reports on each publish twice, when it is written and when it is confirmed. Only the last unwritten publish
//! is watched: once it is written, so are all before it. That makes one wake-up per batch, not one per message.

use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use futures_util::future::poll_fn;
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::PublisherConfirm;
use lapin::options::BasicPublishOptions;

use tokio_util::sync::ReusableBoxFuture;

use super::channel::OpenChannel;
use super::outgoing::{Outgoing, Returned};

/// How many boxes are kept for reuse.
const SPARE: usize = 64;

/// Publishes that are neither confirmed nor failed, by their numbers.
#[derive(Default)]
pub(super) struct Writes {
    /// In the order in which they are written, with their numbers.
    unwritten: VecDeque<(u64, Writing)>,
    /// True while the last of several is set to wake the task. Only one task waits, so one such poll is enough.
    is_watched: bool,
    /// Boxes of earlier writes, for reuse: `lapin`'s future is too large to be allocated quickly.
    spare: Vec<BoxedWrite>,
    unconfirmed: FuturesUnordered<Confirming>,
}

/// A publish that was handed to `lapin`.
pub(super) struct Writing {
    written: BoxedWrite,
    /// The result of the first poll.
    first: Poll<lapin::Result<PublisherConfirm>>,
}

type BoxedWrite = ReusableBoxFuture<'static, lapin::Result<PublisherConfirm>>;

struct Confirming {
    number: u64,
    confirm: PublisherConfirm,
}

/// The outcome of writing one publish.
pub(super) enum WriteOutcome {
    /// It was never sent.
    No(lapin::Error),
    /// It may have been sent; no confirm arrived.
    Unconfirmed(lapin::Error),
    Confirmed {
        taken: bool,
        returned: Option<Box<Returned>>,
    },
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        self.unwritten.is_empty() && self.unconfirmed.is_empty()
    }

    /// Drops all publishes, whose outcomes are no longer needed.
    pub(super) fn clear(&mut self) {
        self.unwritten.clear();
        self.unconfirmed.clear();
    }

    /// Hands a publish to `lapin`.
    pub(super) fn begin(&mut self, channel: Arc<OpenChannel>, number: u64, outgoing: Arc<Outgoing>) {
        let spare = self.spare.pop();
        self.add(number, Writing::begin(spare, channel, outgoing));
    }

    /// Adds a publish that was handed to `lapin`, in the order in which that happened.
    pub(super) fn add(&mut self, number: u64, writing: Writing) {
        self.unwritten.push_back((number, writing));
        self.is_watched = false;
    }

    /// Waits until something is settled, and takes everything that is. Leaving none behind is what makes
    /// [`Window::confirmed`](super::window::Window::confirmed) exact.
    pub(super) async fn settled(&mut self) -> Vec<(u64, WriteOutcome)> {
        let mut round = Vec::new();
        poll_fn(|context| {
            // Repeat until a pass finds nothing: a publish that was written meanwhile may have been confirmed before
            // one that was seen here.
            loop {
                let before = round.len();
                self.take_written(context, &mut round);
                while let Poll::Ready(Some(settled)) = self.unconfirmed.poll_next_unpin(context) {
                    round.push(settled);
                }
                if round.len() == before {
                    return if round.is_empty() { Poll::Pending } else { Poll::Ready(()) };
                }
            }
        })
        .await;
        round
    }

    /// Moves written publishes on to wait for their confirms.
    fn take_written(&mut self, context: &mut Context<'_>, failed: &mut Vec<(u64, WriteOutcome)>) {
        let mut quiet = Context::from_waker(Waker::noop());
        loop {
            let is_last = self.unwritten.len() == 1;
            let Some((_, first)) = self.unwritten.front_mut() else { return };
            // A poll replaces the waker, so the last publish is never polled without the task's.
            match first.poll(if is_last { context } else { &mut quiet }) {
                Poll::Ready(result) => {
                    if let Some(writing) = self.unwritten.pop_front() {
                        self.was_written(writing, result, failed);
                    }
                    continue;
                }
                Poll::Pending if is_last || self.is_watched => return,
                Poll::Pending => {}
            }
            let Some((_, last)) = self.unwritten.back_mut() else { return };
            let Poll::Ready(result) = last.poll(context) else {
                self.is_watched = true;
                return;
            };
            // It was written after the front was polled, and so was everything before it.
            if let Some(writing) = self.unwritten.pop_back() {
                self.was_written(writing, result, failed);
            }
        }
    }

    fn was_written(
        &mut self,
        (number, Writing { written, .. }): (u64, Writing),
        result: lapin::Result<PublisherConfirm>,
        failed: &mut Vec<(u64, WriteOutcome)>,
    ) {
        if self.spare.len() < SPARE {
            self.spare.push(written);
        }
        match result {
            Ok(confirm) => self.unconfirmed.push(Confirming { number, confirm }),
            Err(error) => failed.push((number, WriteOutcome::No(error))),
        }
    }
}

impl Writing {
    /// Hands a publish to `lapin`: its frames are queued when this returns, so publishes are written in the order of the
    /// calls. `spare` is a box to use again.
    pub(super) fn begin(
        spare: Option<BoxedWrite>,
        channel: Arc<OpenChannel>,
        outgoing: Arc<Outgoing>,
    ) -> Self {
        let write = async move {
            let (exchange, routing_key) = (outgoing.exchange.clone(), outgoing.routing_key.clone());
            let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
            let properties = outgoing.properties();
            channel.basic_publish(exchange, routing_key, options, outgoing.body(), properties).await
        };
        let mut written = match spare {
            Some(mut spare) => {
                spare.set(write);
                spare
            }
            None => ReusableBoxFuture::new(write),
        };
        let first = written.poll(&mut Context::from_waker(Waker::noop()));
        Self { written, first }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<PublisherConfirm>> {
        match mem::replace(&mut self.first, Poll::Pending) {
            Poll::Pending => self.written.poll(context),
            ready => ready,
        }
    }
}

impl Future for Confirming {
    type Output = (u64, WriteOutcome);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.confirm.poll_unpin(context).map(|confirmed| {
            let outcome = match confirmed {
                Ok(confirmation) => WriteOutcome::Confirmed {
                    taken: confirmation.is_ack(),
                    returned: confirmation.take_message().map(|message| Box::new(message.into())),
                },
                Err(error) => WriteOutcome::Unconfirmed(error),
            };
            (self.number, outcome)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use tokio::sync::oneshot;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A publish that fails when the sender says so.
    fn writing() -> (oneshot::Sender<()>, Writing) {
        let (written, is_written) = oneshot::channel();
        let write = async move {
            let _ = is_written.await;
            Err(lapin::ErrorKind::ChannelsLimitReached.into())
        };
        (written, Writing { written: ReusableBoxFuture::new(write), first: Poll::Pending })
    }

    #[test]
    fn the_task_is_woken_when_all_is_written_however_often_it_was_woken_before() {
        for count in 1..4 {
            let (woken, mut writes) = (Arc::new(Woken::default()), Writes::default());
            let waker = Arc::clone(&woken).into();
            let mut context = Context::from_waker(&waker);
            let mut senders = VecDeque::new();
            for number in 0..count {
                let (sender, writing) = writing();
                senders.push_back(sender);
                writes.add(number, writing);
            }
            // The task has other events as well.
            for _ in 0..3 {
                let mut settled = std::pin::pin!(writes.settled());
                assert!(settled.as_mut().poll(&mut context).is_pending());
            }
            let last = senders.pop_back().expect("at least one");
            senders.into_iter().for_each(|sender| sender.send(()).expect("it is awaited"));
            assert_eq!(woken.0.load(Ordering::Relaxed), 0, "one wake-up for all");
            last.send(()).expect("it is awaited");
            assert_eq!(woken.0.load(Ordering::Relaxed), 1, "of {count}");
            let mut settled = std::pin::pin!(writes.settled());
            let Poll::Ready(settled) = settled.as_mut().poll(&mut context) else { panic!("all are written") };
            assert!(settled.iter().map(|(number, _)| *number).eq(0..count));
        }
    }
}
