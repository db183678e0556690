//! Publishes on their way: to the socket, in order, and from there to their confirms.
//!
//! `lapin` reports twice of each publish, when it is written and when it is confirmed. Only the last that is on its way to the
//! socket is watched: when that is written, so are all before it. One wake-up for a batch, not one a message.

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

/// How many boxes are kept.
const SPARE: usize = 64;

/// Publishes that are neither confirmed nor failed, by their numbers.
#[derive(Default)]
pub(super) struct Writes {
    /// In the order in which they are written.
    unwritten: VecDeque<Writing>,
    /// True while the last of them wakes the task. There is one task, so it is asked once.
    is_watched: bool,
    /// Boxes of earlier writes: what `lapin` keeps of one is too large for the allocator to be quick about it.
    spare: Vec<BoxedWrite>,
    unconfirmed: FuturesUnordered<Confirming>,
}

struct Writing {
    number: u64,
    written: BoxedWrite,
    /// What the first poll found, if that was an error.
    failed: Option<lapin::Error>,
}

type BoxedWrite = ReusableBoxFuture<'static, lapin::Result<PublisherConfirm>>;

struct Confirming {
    number: u64,
    confirm: PublisherConfirm,
}

/// What became of one publish.
pub(super) enum WriteOutcome {
    /// It never went out.
    No(lapin::Error),
    /// It may have gone out; no confirm came.
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

    /// Nobody waits for their outcomes any more.
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
        // This poll queues the frames, so their order is that of the calls.
        let failed = match written.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready(Ok(confirm)) => return self.unconfirmed.push(Confirming { number, confirm }),
            Poll::Ready(Err(error)) => Some(error),
        };
        self.unwritten.push_back(Writing { number, written, failed });
        self.is_watched = false;
    }

    /// Waits until something is settled, and takes all that is. That none is left behind is what makes
    /// [`Window::confirmed`](super::window::Window::confirmed) exact.
    pub(super) async fn settled(&mut self) -> Vec<(u64, WriteOutcome)> {
        let mut round = Vec::new();
        poll_fn(|context| {
            // Until nothing comes any more: a publish that was written meanwhile may have been confirmed before one that
            // was seen here.
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

    /// Moves on what is written.
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
            // It was written since the front was looked at, and so was all before it.
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
