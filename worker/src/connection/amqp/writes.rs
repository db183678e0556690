//! Publishes in flight: written to the socket in order, then waiting for their confirms.
//!
//! `lapin` reports on each publish twice, when it is written and when it is confirmed. Only the last unwritten publish
//! is watched: once it is written, so are all before it. That makes one wake-up per batch, not one per message.

use std::collections::VecDeque;
use std::future::Future;
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
    /// In the order in which they are written.
    unwritten: VecDeque<Writing>,
    /// True while the last of them is set to wake the task. Only one task waits, so one such poll is enough.
    is_watched: bool,
    /// Boxes of earlier writes, for reuse: `lapin`'s future is too large to be allocated quickly.
    spare: Vec<BoxedWrite>,
    unconfirmed: FuturesUnordered<Confirming>,
}

struct Writing {
    number: u64,
    written: BoxedWrite,
    /// The result of the first poll, if that was an error.
    failed: Option<lapin::Error>,
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
        let write = async move {
            let (exchange, routing_key) = (outgoing.exchange.clone(), outgoing.routing_key.clone());
            let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
            let properties = outgoing.properties();
            channel.basic_publish(exchange, routing_key, options, outgoing.body(), properties).await
        };
        let mut written = match self.spare.pop() {
            Some(mut spare) => {
                spare.set(write);
                spare
            }
            None => ReusableBoxFuture::new(write),
        };
        // This poll queues the frames, so publishes are written in the order of the calls.
        let failed = match written.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(Ok(confirm)) => return self.unconfirmed.push(Confirming { number, confirm }),
            Poll::Ready(Err(error)) => Some(error),
        };
        self.unwritten.push_back(Writing { number, written, failed });
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
            while let Some(first) = self.unwritten.front_mut()
                && let Poll::Ready(result) = first.poll(&mut quiet)
                && let Some(writing) = self.unwritten.pop_front()
            {
                self.was_written(writing, result, failed);
            }
            if self.is_watched {
                return;
            }
            let Some(last) = self.unwritten.back_mut() else { return };
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
        Writing { number, written, .. }: Writing,
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
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<lapin::Result<PublisherConfirm>> {
        match self.failed.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.written.poll(context),
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
