//! Writes all results of this process in batches: while one is being stored, the next one gathers. No result is delayed in
//! order to fill a batch; a single result is stored at once.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};

use super::ResultRecord;
use crate::connection::background;
use crate::error::{Error, Result};

/// The maximum number of records in a batch: a larger one would be no cheaper, and callers wait for it.
const BATCH: usize = 512;
/// The maximum size of a batch. A larger record is stored on its own.
const BATCH_BYTES: usize = 1 << 20;
/// The capacity of the channel to the writer. Further callers wait for room.
const QUEUED: usize = 1024;

/// An encoded record.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) task_id: String,
    pub(super) json: Vec<u8>,
    /// A final record is never overwritten.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "read by the feature `postgres`"))]
    pub(super) is_final: bool,
    /// The reply queue of its caller, if results travel as messages.
    #[cfg_attr(not(feature = "amqp"), expect(dead_code, reason = "read by the feature `amqp`"))]
    pub(super) reply_to: Option<String>,
}

impl Written {
    fn new(record: &ResultRecord, reply_to: Option<&str>) -> Self {
        let (task_id, is_final) = (record.task_id.clone(), record.state.is_ready());
        Self { task_id, json: record.to_json(), is_final, reply_to: reply_to.map(ToOwned::to_owned) }
    }
}

/// A store that accepts many records at once.
pub(super) trait BatchStore: Send + Sync + 'static {
    /// The number of batches that may be in flight at once: more than one if the store has to wait for its disk.
    const AT_ONCE: usize;

    /// Stores records of different tasks, in any order. After an error, some may have been stored.
    fn store_all(&self, records: Vec<Arc<Written>>) -> BoxFuture<'_, Result<()>>;

    /// Starts the writer on the thread of the store's connections.
    ///
    /// # Errors
    /// The thread cannot be started.
    fn start(&self, writer: BoxFuture<'static, ()>) -> Result<()> {
        background::spawn(writer).map(drop)
    }
}

/// Passes records to the writer of a store. The writer stops when this is dropped.
pub(super) struct BatchWriter<S> {
    store: Arc<S>,
    writer: Mutex<Option<mpsc::Sender<Waiting>>>,
}

/// A record, and the channel that answers its caller.
type Waiting = (Arc<Written>, Reply);
type Reply = oneshot::Sender<Result<()>>;

impl<S: BatchStore> BatchWriter<S> {
    pub(super) fn new(store: Arc<S>) -> Self {
        Self { store, writer: Mutex::default() }
    }

    /// Stores a record. If the caller gives up before its batch is in flight, nothing is stored.
    pub(super) async fn store(&self, record: &ResultRecord, reply_to: Option<&str>) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        let ended = || Error::connection("cannot store a result: interrupted");
        let written = Arc::new(Written::new(record, reply_to));
        self.writer()?.send((written, reply)).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Returns the channel to the writer, which the first call starts.
    fn writer(&self) -> Result<mpsc::Sender<Waiting>> {
        // A panic elsewhere leaves the value consistent.
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = &*writer {
            return Ok(writer.clone());
        }
        let (sender, inbox) = mpsc::channel(QUEUED);
        self.store.start(write(Arc::clone(&self.store), inbox).boxed())?;
        Ok(writer.insert(sender).clone())
    }
}

async fn write<S: BatchStore>(store: Arc<S>, mut inbox: mpsc::Receiver<Waiting>) {
    let mut waiting = VecDeque::new();
    let mut in_flight = FuturesUnordered::new();
    // The tasks of the batches in flight.
    let mut busy = HashSet::new();
    let mut is_open = true;
    while is_open || !waiting.is_empty() || !in_flight.is_empty() {
        while waiting.len() < BATCH
            && let Ok(next) = inbox.try_recv()
        {
            waiting.push_back(next);
        }
        // Skip records whose caller has given up: it may have stored something else since.
        waiting.retain(|(_, reply)| !reply.is_closed());
        if in_flight.len() < S::AT_ONCE {
            let count = batch_of(waiting.iter().map(|(record, _)| &**record), &busy);
            let (records, replies): (Vec<Arc<Written>>, _) = waiting.drain(..count).unzip();
            if count > 0 {
                busy.extend(records.iter().map(|record| record.task_id.clone()));
                in_flight.push(store_batch(&*store, records, replies));
            }
        }
        tokio::select! {
            Some(done) = in_flight.next() => {
                for record in done {
                    busy.remove(&record.task_id);
                }
            }
            // Records that cannot be stored yet stay in the channel, and do not wake this task.
            next = inbox.recv(), if is_open && in_flight.len() < S::AT_ONCE => match next {
                Some(next) => waiting.push_back(next),
                None => is_open = false,
            },
            else => {}
        }
    }
}

/// Returns how many of the records make up the next batch, while those of `busy` tasks are in flight.
fn batch_of<'a>(records: impl Iterator<Item = &'a Written>, busy: &HashSet<String>) -> usize {
    let (mut ids, mut bytes) = (HashSet::new(), 0);
    let fits = |record: &&'a Written| {
        bytes += record.json.len();
        let has_room = ids.is_empty() || bytes <= BATCH_BYTES;
        // Records of one task are stored in their order, so never in one batch or in parallel.
        has_room && !busy.contains(&record.task_id) && ids.insert(&*record.task_id)
    };
    records.take(BATCH).take_while(fits).count()
}

/// Stores a batch, and answers each caller. A record that the store rejects does not fail the others.
async fn store_batch<S: BatchStore>(
    store: &S,
    records: Vec<Arc<Written>>,
    replies: Vec<Reply>,
) -> Vec<Arc<Written>> {
    match store.store_all(records.clone()).await {
        Err(error) if error.is_permanent() && records.len() > 1 => {
            for (record, reply) in records.iter().zip(replies) {
                let _ = reply.send(store.store_all(vec![Arc::clone(record)]).await);
            }
        }
        stored => {
            for reply in replies {
                // A caller that has given up needs no answer.
                let _ = reply.send(stored.as_ref().copied().map_err(Error::again));
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::state::State;

    fn written(id: &str, bytes: usize) -> Written {
        Written { task_id: id.into(), json: vec![b' '; bytes], is_final: true, reply_to: None }
    }

    #[test]
    fn a_batch_is_bounded_and_has_one_record_of_a_task() {
        let busy = HashSet::from(["busy".to_owned()]);
        let batch = |records: &[Written]| batch_of(records.iter(), &busy);
        assert_eq!(batch(&[written("a", 1), written("busy", 1), written("b", 1)]), 1);
        assert_eq!(batch(&[written("a", 1), written("b", 1), written("a", 1), written("c", 1)]), 2);
        assert_eq!(batch(&[written("a", BATCH_BYTES * 2), written("b", 1)]), 1);
        assert_eq!(batch(&[written("a", 1), written("b", BATCH_BYTES)]), 1);
        assert_eq!(batch(&[]), 0);
        let many: Vec<_> = (0..BATCH + 1).map(|n| written(&n.to_string(), 1)).collect();
        assert_eq!(batch(&many), BATCH);
    }

    /// Stores batches when permitted, and rejects records of the task `bad`.
    struct Slow {
        may: Semaphore,
        batches: Mutex<Vec<Vec<String>>>,
    }

    impl BatchStore for Slow {
        const AT_ONCE: usize = 1;

        fn store_all(&self, records: Vec<Arc<Written>>) -> BoxFuture<'_, Result<()>> {
            async move {
                self.may.acquire().await.expect("open").forget();
                let ids: Vec<String> = records.iter().map(|record| record.task_id.clone()).collect();
                let refused = match &*ids {
                    ids if ids.iter().any(|id| id == "bad") => {
                        Err(Error::codec("bad").with_source(Error::codec("why")))
                    }
                    ids if ids.iter().any(|id| id == "away") => Err(Error::connection("away")),
                    _ => Ok(()),
                };
                self.batches.lock().expect("no panic").push(ids);
                refused
            }
            .boxed()
        }
    }

    fn slow() -> Arc<Slow> {
        Arc::new(Slow { may: Semaphore::new(0), batches: Mutex::default() })
    }

    /// Resolves when the writer has taken all sent records out of the channel: then they are in flight.
    async fn is_taken(gathering: &BatchWriter<Slow>) {
        while gathering.writer().expect("a writer").capacity() < QUEUED {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Stores records while a first one is in flight, and returns their results.
    async fn store(slow: &Arc<Slow>, ids: &[&str]) -> Vec<Result<()>> {
        let gathering = BatchWriter::new(Arc::clone(slow));
        let store = |id: &str| {
            let record = ResultRecord::new(id, State::Success);
            let gathering = &gathering;
            async move { gathering.store(&record, None).await }
        };
        let mut first = Box::pin(store("first"));
        assert!((&mut first).now_or_never().is_none());
        is_taken(&gathering).await;
        let mut others = Box::pin(join_all(ids.iter().map(|id| store(id))));
        assert!((&mut others).now_or_never().is_none());
        slow.may.add_permits(100);
        first.await.expect("stored");
        others.await
    }

    fn batches(slow: &Slow) -> Vec<Vec<String>> {
        slow.batches.lock().expect("no panic").clone()
    }

    #[tokio::test]
    async fn records_arriving_during_a_batch_form_the_next_one() {
        let slow = slow();
        assert!(store(&slow, &["a", "b", "a", "c"]).await.iter().all(Result::is_ok));
        assert_eq!(batches(&slow), [vec!["first"], vec!["a", "b"], vec!["a", "c"]]);
    }

    #[tokio::test]
    async fn a_record_that_the_store_cannot_take_fails_alone() {
        let slow = slow();
        let stored = store(&slow, &["a", "bad", "b"]).await;
        assert!(stored[0].is_ok() && stored[2].is_ok());
        assert_eq!(format!("{:#}", stored[1].as_ref().expect_err("refused")), "bad: why");
        assert_eq!(batches(&slow)[1..], [vec!["a", "bad", "b"], vec!["a"], vec!["bad"], vec!["b"]]);
    }

    #[tokio::test]
    async fn while_the_store_is_away_all_are_told_so_and_nothing_is_tried_one_by_one() {
        let slow = slow();
        let stored = store(&slow, &["a", "away", "b"]).await;
        assert!(stored.iter().all(|stored| stored.as_ref().is_err_and(Error::is_connection)));
        assert_eq!(batches(&slow).len(), 2);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_not_stored() {
        let slow = slow();
        let gathering = BatchWriter::new(Arc::clone(&slow));
        let [a, b, c] = ["a", "b", "c"].map(|id| ResultRecord::new(id, State::Success));
        let mut first = Box::pin(gathering.store(&a, None));
        assert!((&mut first).now_or_never().is_none());
        is_taken(&gathering).await;
        assert!(gathering.store(&b, None).now_or_never().is_none(), "given up");
        let mut last = Box::pin(gathering.store(&c, None));
        assert!((&mut last).now_or_never().is_none());
        slow.may.add_permits(2);
        last.await.expect("stored");
        assert_eq!(batches(&slow), [["a"], ["c"]]);
    }
}
