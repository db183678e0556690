//! A walk over the messages of a queue, the oldest first. The next ones are read while the last are worked on, and what
//! stays is held until the end of the walk: then it goes back in its order.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{Broker, Delivery, Settlement, Verdict};
use crate::error::{Error, Result};

/// How many messages are taken first.
const FIRST: usize = 16;
/// How many are taken at once in a walk that is not very long.
const MOST: usize = 512;
/// A longer walk takes as many at once as one in this many of those that it has taken: RabbitMQ needs a channel for each
/// time, of which a connection has some two thousand.
const PART: u64 = 256;
/// How many bytes are taken at once, as far as the sizes so far tell.
const BYTES: usize = 16 << 20;

/// A message of a walk.
pub(crate) struct Taken {
    pub(crate) delivery: Delivery,
    /// Where in the walk it is.
    pub(crate) place: u64,
}

/// A walk over a queue. [`end`](Self::end) ends it; one that is dropped requeues what it holds too.
pub(crate) struct Walk {
    pub(crate) broker: Arc<dyn Broker>,
    queue: Arc<str>,
    /// What goes back at the end. Only the right to give it back is kept, not the message: there may be many.
    held: Vec<(u64, Settlement)>,
    /// Those that were read, the oldest first.
    ahead: VecDeque<Delivery>,
    coming: Option<JoinHandle<Result<Vec<Delivery>>>>,
    window: Window,
    /// How many have been walked over.
    passed: u64,
    /// How many may still be read: what arrives meanwhile, or comes back, must not keep us walking.
    unread: u64,
}

impl Walk {
    /// A walk over at most so many messages.
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

    /// The next message. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The broker's, and then there is no next one.
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
        // One that is not waited for requeues what it gets.
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

    /// Keeps a message until the end.
    pub(crate) fn hold(&mut self, place: u64, settlement: Settlement) {
        self.held.push((place, settlement));
    }

    /// How many there were at the beginning and have not been walked over, as far as is known.
    #[cfg(any(feature = "cli", feature = "dashboard"))]
    pub(crate) fn left(&self) -> u64 {
        self.unread + self.ahead.len() as u64
    }

    /// Requeues what was held and what was read in vain, the oldest first, and waits until it is in the queue again.
    pub(crate) async fn end(mut self) {
        // An error was told of already, or does not matter any more.
        let _ = self.come().await;
        self.held.sort_unstable_by_key(|(place, _)| *place);
        for (_, settlement) in self.held.drain(..) {
            settlement.settle(Verdict::Requeue);
        }
        self.ahead.drain(..).for_each(Delivery::requeue);
        let _ = self.broker.get_many(&self.queue, 0).await;
    }
}

/// How many messages are taken at once. It grows with the walk: what is read in vain at its end is not much more than what
/// it has walked over.
#[derive(Debug)]
struct Window {
    messages: usize,
    /// About the size of the largest body of late.
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
