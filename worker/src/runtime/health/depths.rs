//! The queue lengths of a worker, queried when metrics are read.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Consuming;
use crate::broker::QueueInfo;
use crate::routing::Queue;

/// The broker is queried no more often than this, however many readers there are.
const AT_MOST_EVERY: Duration = Duration::from_secs(15);
/// How long a reader waits for the broker.
const LIMIT: Duration = Duration::from_millis(1500);

/// The last answer of the broker.
#[derive(Default)]
pub(super) struct Depths(Mutex<Option<(Instant, Option<Vec<QueueInfo>>)>>);

impl Depths {
    /// The queues and their dead-letter queues. `None`: the broker did not answer.
    pub(super) async fn of(&self, consuming: &Consuming) -> Option<Vec<QueueInfo>> {
        let mut last = self.0.lock().await;
        if let Some((asked, found)) = &*last
            && asked.elapsed() < AT_MOST_EVERY
        {
            return found.clone();
        }
        let names: Vec<String> = consuming
            .sources
            .queues()
            .into_iter()
            .flat_map(|queue| {
                let dead = Queue::dead_letter_name(&queue);
                [queue, dead]
            })
            .collect();
        let found = match names.is_empty() {
            true => Some(Vec::new()),
            false => {
                let asked = tokio::time::timeout(LIMIT, consuming.broker.queues(&names)).await;
                asked.ok().and_then(Result::ok)
            }
        };
        *last = Some((Instant::now(), found.clone()));
        found
    }
}
