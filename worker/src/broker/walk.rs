//! A walk over the messages of a queue, oldest first. The next messages are read while earlier ones are processed. Those
//! that stay in the queue are held until the end of the walk, and then requeued in their order.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Broker, Delivery, Settlement, Verdict};
use crate::error::{Error, Result};

/// The size of the first batch.
const FIRST: usize = 16;
/// The maximum size of a batch, unless the walk is very long.
const MOST: usize = 512;
/// In a longer walk, the size of a batch is the number of messages so far divided by this: RabbitMQ needs a channel for each
/// batch, and a connection has only some two thousand.
const PART: u64 = 256;
/// The intended size of a batch in bytes, estimated from earlier messages.
const BYTES: usize = 16 << 20;

/// A message of a walk.
pub(crate) struct Taken {
    pub(crate) delivery: Delivery,
    /// Its position in the walk.
    pub(crate) place: u64,
}

/// A walk over a queue, finished by [`end`](Self::end). A dropped walk requeues its messages too.
pub(crate) struct Walk {
    pub(crate) broker: Arc<dyn Broker>,
    queue: Arc<str>,
    /// The messages to requeue at the end. There may be many, so only the right to settle each is kept.
    held: Vec<(u64, Settlement)>,
    /// Messages read ahead, oldest first.
    ahead: VecDeque<Delivery>,
    coming: Option<JoinHandle<Result<Vec<Delivery>>>>,
    window: Window,
    /// The number of messages returned so far.
    passed: u64,
    /// How many messages may still be read, so that newly arriving or requeued ones cannot prolong the walk.
    unread: u64,
}

impl Walk {
    /// Starts a walk over at most `most` messages.
    pub(crate) fn new(broker: Arc<dyn Broker>, queue: &str, most: u64) -> Self {
        Self {
            broker,
            queue: queue.into(),
            held: Vec::new(),
            ahead: VecDeque::new(),
            coming: None,
            window: Window::default(),
            passed: 0,
            unread: most,
        }
    }

    /// Returns the next message. Cancel safe: nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// An error of the broker, which also ends the walk.
    pub(crate) async fn next(&mut self) -> Result<Option<Taken>> {
        loop {
            if let Some(delivery) = self.ahead.pop_front() {
                self.passed += 1;
                return Ok(Some(Taken { delivery, place: self.passed }));
            }
            self.read_ahead();
            if self.coming.is_none() {
                return Ok(None);
            }
            self.come().await?;
            self.read_ahead();
        }
    }

    fn read_ahead(&mut self) {
        if self.coming.is_some() || self.unread == 0 {
            return;
        }
        let (broker, queue) = (Arc::clone(&self.broker), Arc::clone(&self.queue));
        let most = self.window.size(self.passed).min(usize::try_from(self.unread).unwrap_or(usize::MAX));
        // If the walk is dropped meanwhile, the task goes on, and dropping its result requeues the messages.
        self.coming = Some(tokio::spawn(async move { broker.get_many(&queue, most).await }));
    }

    async fn come(&mut self) -> Result<()> {
        let Some(coming) = &mut self.coming else { return Ok(()) };
        let came = coming.await;
        self.coming = None;
        let came = came.unwrap_or_else(|_| Err(Error::connection("reading the queue was interrupted")));
        match came {
            Ok(came) if !came.is_empty() => {
                self.unread = self.unread.saturating_sub(came.len() as u64);
                self.window.took(came.iter().map(|delivery| delivery.message.body.len()).max());
                self.ahead.extend(came);
                Ok(())
            }
            ended => {
                self.unread = 0;
                ended.map(drop)
            }
        }
    }

    /// Keeps a message, to be requeued at the end.
    pub(crate) fn hold(&mut self, place: u64, settlement: Settlement) {
        self.held.push((place, settlement));
    }

    /// The number of messages of the walk that have not been returned yet, as far as is known.
    #[cfg(any(feature = "cli", feature = "dashboard"))]
    pub(crate) fn left(&self) -> u64 {
        self.unread + self.ahead.len() as u64
    }

    /// Requeues all messages that were held or read ahead, oldest first, and waits until they are in the queue again.
    pub(crate) async fn end(mut self) {
        // An error was either reported by `next`, or no longer matters.
        let _ = self.come().await;
        self.held.sort_unstable_by_key(|(place, _)| *place);
        for (_, settlement) in self.held.drain(..) {
            settlement.settle(Verdict::Requeue);
        }
        self.ahead.drain(..).for_each(Delivery::requeue);
        let _ = self.broker.get_many(&self.queue, 0).await;
    }
}

/// The size of the next batch. It grows with the walk, so that a walk that stops early has not read far ahead.
#[derive(Debug)]
struct Window {
    messages: usize,
    /// An estimate of the largest recent body.
    largest: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { messages: FIRST, largest: 0 }
    }
}

impl Window {
    fn took(&mut self, largest: Option<usize>) {
        self.messages = (self.messages * 2).min(MOST);
        self.largest = largest.unwrap_or_default().max(self.largest / 2);
    }

    fn size(&self, passed: u64) -> usize {
        let messages = match self.messages {
            MOST => MOST.max(usize::try_from(passed / PART).unwrap_or(MOST)),
            messages => messages,
        };
        messages.min(BYTES / self.largest.max(1)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_walk_and_shrinks_with_the_size_of_the_messages() {
        let mut window = Window::default();
        let sizes = std::iter::repeat_with(|| {
            let size = window.size(0);
            window.took(Some(100));
            size
        });
        assert_eq!(sizes.take(7).collect::<Vec<_>>(), [16, 32, 64, 128, 256, 512, 512]);
        assert_eq!(window.size(1_000_000), 3906);
        window.took(Some(1 << 20));
        assert_eq!(window.size(1_000_000), 16);
        window.took(Some(64 << 20));
        assert_eq!(window.size(0), 1);
        window.took(Some(100));
        window.took(Some(100));
        window.took(Some(100));
        assert_eq!(window.size(0), 2, "it forgets a large message slowly");
    }

    #[test]
    fn a_walk_over_ten_million_messages_needs_fewer_channels_than_a_connection_has() {
        let (mut window, mut passed, mut batches) = (Window::default(), 0, 0);
        while passed < 10_000_000 {
            passed += window.size(passed) as u64;
            window.took(Some(1000));
            batches += 1;
        }
        assert!(batches < 1500, "{batches}");
    }
}
