//! How fast a producer sends.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Tasks per second, other than quick ones, of a producer under load.
pub(crate) const MIXED: f64 = 20.0;
/// After a pause in which nothing could be sent, at most this much of it is made up for.
const MADE_UP: Duration = Duration::from_secs(1);

/// The times at which to send.
pub(crate) struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Pace {
        Pace { next: Instant::now() + every, every }
    }

    /// Resolves when the next task is due.
    pub(crate) async fn wait(&mut self) {
        let now = Instant::now();
        if self.next > now {
            sleep_until(self.next).await;
        }
        self.next = (self.next + self.every).max(now.checked_sub(MADE_UP).unwrap_or(now));
    }
}
