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
use futures_util::future::{BoxFuture, poll_fn};
use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::PublisherConfirm;
use lapin::options::BasicPublishOptions;

use super::channel::OpenChannel;
use super::outgoing::{Outgoing, Returned};

/// Publishes that are neither confirmed nor failed, by their numbers.
#[derive(Default)]
pub(super) struct Writes {
    /// In the order in which they are written.
    unwritten: VecDeque<Writing>,
    /// True while the last of them wakes the task. There is one task, so it is asked once.
    is_watched: bool,
    unconfirmed: FuturesUnordered<Confirming>,
}

struct Writing {
    number: u64,
    written: BoxFuture<'static, lapin::Result<PublisherConfirm>>,
}

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

    /// Nobody asks any more what becomes of them.
    pub(super) fn clear(&mut self) {
        self.unwritten.clear();
        self.unconfirmed.clear();
    }

    /// Hands a publish to `lapin`.
    pub(super) fn begin(&mut self, channel: Arc<OpenChannel>, number: u64, outgoing: Arc<Outgoing>) {
        let mut written = async move {
            let (exchange, routing_key) = (outgoing.exchange.clone(), outgoing.routing_key.clone());
            let options = BasicPublishOptions { mandatory: outgoing.mandatory, immediate: false };
            let properties = outgoing.properties();
            channel.basic_publish(exchange, routing_key, options, outgoing.body(), properties).await
        }
        .boxed();
        // This poll queues the frames, so their order is that of the calls.
        let polled = written.poll_unpin(&mut Context::from_waker(Waker::noop()));
        let written = match polled {
            Poll::Pending => written,
            // It failed.
            Poll::Ready(result) => std::future::ready(result).boxed(),
        };
        self.unwritten.push_back(Writing { number, written });
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
            while let Some(Writing { written, .. }) = self.unwritten.front_mut()
                && let Poll::Ready(result) = written.poll_unpin(&mut quiet)
                && let Some(Writing { number, .. }) = self.unwritten.pop_front()
            {
                self.was_written(number, result, failed);
            }
            if self.is_watched {
                return;
            }
            let Some(Writing { written, .. }) = self.unwritten.back_mut() else { return };
            let Poll::Ready(result) = written.poll_unpin(context) else {
                self.is_watched = true;
                return;
            };
            // It was written since the front was looked at, and so was all before it.
            if let Some(Writing { number, .. }) = self.unwritten.pop_back() {
                self.was_written(number, result, failed);
            }
        }
    }

    fn was_written(
        &mut self,
        number: u64,
        result: lapin::Result<PublisherConfirm>,
        failed: &mut Vec<(u64, WriteOutcome)>,
    ) {
        match result {
            Ok(confirm) => self.unconfirmed.push(Confirming { number, confirm }),
            Err(error) => failed.push((number, WriteOutcome::No(error))),
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
