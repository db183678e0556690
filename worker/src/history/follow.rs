//! Feeds a history: copies the events of all workers and producers from the broker into the file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::History;
use super::record::Entry;
use crate::broker::Broker;
use crate::connection::background;
use crate::error::Result;
use crate::events::{Batch, EventReader, EventStream};
use crate::tracing;

/// How many messages the queue keeps while nothing reads it, of up to 256 events each; the oldest are dropped.
const KEPT: u64 = 20_000;
/// The most events of one transaction.
const MOST_EVENTS: usize = 2_000;
/// How long a transaction waits for more events after the first: a row that changes twice is written once.
const GATHER: Duration = Duration::from_millis(50);
/// How long to wait after a failure, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// How often old entries are deleted.
const FORGET: Duration = Duration::from_secs(5);

/// The prefix of the queue names of all histories.
pub const QUEUE_PREFIX: &str = "mq-worker.history";

/// Records the events of a broker until the future is dropped.
///
/// The broker keeps the events in a durable, bounded queue of this history's own, so up to its bound no event is lost while
/// no process follows. Events are acked once they are in the file: a crash in between delivers them again, and an event that
/// is already known changes nothing. An unreachable broker or a file that cannot be written is retried.
///
/// # Errors
/// The timer thread cannot be started.
pub async fn follow(broker: Arc<dyn Broker>, history: &History) -> Result<()> {
    let name = history.queue_name().await?;
    let reader = EventReader::Durable { name, bound: KEPT };
    let mut pause = PAUSES.0;
    loop {
        match EventStream::open(Arc::clone(&broker), &reader).await {
            Ok(mut stream) => {
                pause = PAUSES.0;
                copy(&mut stream, history).await?;
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), again_in = ?pause, "the history cannot read events");
            }
        }
        background::sleep(pause).await?;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Copies until the stream ends.
async fn copy(stream: &mut EventStream, history: &History) -> Result<()> {
    let mut forgotten = Instant::now();
    loop {
        // Wake up now and then even without events, to delete old entries.
        match background::timeout(FORGET, stream.next()).await? {
            Some(Some(first)) => {
                let (batches, ended) = gather(stream, first).await?;
                store(&batches, history).await?;
                batches.into_iter().for_each(Batch::done);
                if ended {
                    return Ok(());
                }
            }
            Some(None) => return Ok(()),
            None => {}
        }
        if forgotten.elapsed() >= FORGET {
            // If there is more to delete, the next round continues: events come first.
            match history.forget().await {
                Ok(true) => {}
                Ok(false) => forgotten = Instant::now(),
                Err(error) => {
                    forgotten = Instant::now();
                    tracing::warn!(error = format!("{error:#}"), "cannot delete old calls from the history");
                }
            }
        }
    }
}

/// Gathers the batches that have arrived or arrive soon. True if the stream has ended.
async fn gather(stream: &mut EventStream, first: Batch) -> Result<(Vec<Batch>, bool)> {
    let mut events = first.events.len();
    let mut batches = vec![first];
    let end = Instant::now() + GATHER;
    while events < MOST_EVENTS {
        let left = end.saturating_duration_since(Instant::now());
        match background::timeout(left, stream.next()).await? {
            Some(Some(batch)) => {
                events += batch.events.len();
                batches.push(batch);
            }
            Some(None) => return Ok((batches, true)),
            None => break,
        }
    }
    Ok((batches, false))
}

/// Writes the batches, retrying until it succeeds: they must not be acked before.
async fn store(batches: &[Batch], history: &History) -> Result<()> {
    let mut pause = PAUSES.0;
    loop {
        let entries = batches.iter().flat_map(|batch| &batch.events).filter_map(Entry::from_event).collect();
        match history.record(entries).await {
            Ok(()) => {
                history.set_trouble(None);
                return Ok(());
            }
            Err(error) => {
                history.set_trouble(Some(format!("{error:#}")));
                tracing::warn!(error = format!("{error:#}"), again_in = ?pause, "the history cannot be written");
            }
        }
        background::sleep(pause).await?;
        pause = (pause * 2).min(PAUSES.1);
    }
}
