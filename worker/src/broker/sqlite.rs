//! The embedded broker: one SQLite file, any number of processes.
//!
//! The work is done by the thread of the file ([`crate::connection::sqlite`]); this module converts between its types and
//! the broker's.
//!
//! A delivery is leased to its process: while that is alive, however slow, no other process gets the message. About six
//! seconds after it has died, all its messages are redelivered, and their crash counts raised by one. That includes
//! deliveries still waiting in the consumer's channel: the file does not show what a dead process was doing.

mod finding;
mod publishing;
mod registers;
mod schedule_log;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use tokio::sync::mpsc;

use super::administration::PEEK_BYTES;
use super::{
    Administration, Broker, Capabilities, Consumer, ConsumerControl, DeleteGuard, Delivery, ExchangeInfo,
    FoundMessage, LOST_PAUSE, Publication, QueueInfo, ScheduleLog, Settle, Settlement, Subscription, Verdict,
};
use crate::connection::sqlite::job::{self, Job, Run};
use crate::connection::sqlite::{self, ClaimEnd, Claimed, Consuming, Count, Database, Sink, fresh_id};
use crate::connection::{BrokerUrl, ConnectOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::routing::{Binding, Topology};
use crate::show;
use crate::tracing;

/// A broker in a file.
pub(crate) struct SqliteBroker {
    database: Arc<Database>,
    /// Distinguishes this broker from others of the same file in the same process.
    client: u64,
    timeout: Duration,
    is_closed: AtomicBool,
}

impl SqliteBroker {
    /// Opens the file that `url` names, or creates it.
    pub(crate) async fn open(url: &BrokerUrl, options: &ConnectOptions) -> Result<Arc<dyn Broker>> {
        let database = Database::open(url, options.timeout).await?;
        let is_closed = AtomicBool::new(false);
        Ok(Arc::new(Self { database, client: fresh_id(), timeout: options.timeout, is_closed }))
    }

    fn check_open(&self, act: &str) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::connection(format!("cannot {act}: this broker has been closed")));
        }
        Ok(())
    }

    async fn call<T: Send + 'static>(&self, job: Job<T, impl Run<T>>) -> Result<T> {
        self.check_open(job.act())?;
        self.database.call(job, self.timeout).await
    }

    fn send(&self, publication: Publication) -> Result<impl Future<Output = Result<()>> + Send + use<'_>> {
        self.check_open("publish")?;
        let id = publication.message.id().unwrap_or_default().to_owned();
        let is_transient = publication.message.properties.transient;
        let mut job = sqlite::publish(publishing::of(publication)?);
        if is_transient {
            // A transient message needs no sync of the disk.
            job = job.lazily();
        }
        Ok(self.published(job, id))
    }

    /// Runs a job that publishes. Its errors carry the id of the message if the outcome is unknown.
    fn published<T: Send + 'static>(
        &self,
        job: Job<T, impl Run<T>>,
        id: String,
    ) -> impl Future<Output = Result<T>> + Send {
        let answer = self.database.ask(job, self.timeout);
        async move {
            match answer.await {
                Some(Err(error)) if error.is_unknown() => {
                    Err(Error::new(ErrorKind::Unknown { id }, error.to_string()))
                }
                Some(answer) => answer,
                // The commit may still happen.
                None => Err(Error::new(
                    ErrorKind::Unknown { id },
                    format!(
                        "unknown whether the message was published: no answer within {}",
                        show::duration(self.timeout)
                    ),
                )),
            }
        }
    }

    async fn begin(&self, subscription: Subscription) -> Result<Consumer> {
        let Subscription { mut queues, prefetch, name } = subscription;
        queues.sort_unstable();
        queues.dedup();
        if prefetch == 0 {
            return Err(Error::config("a prefetch of 0 would reserve nothing: give at least 1"));
        }
        let prefetch = usize::from(prefetch);
        // The prefetch bounds its use, and may be changed later to any `u16`.
        let (sender, deliveries) = mpsc::channel(usize::from(u16::MAX));
        let returns = Arc::new(VerdictSink(Arc::clone(&self.database)));
        let consumer = fresh_id();
        let consuming =
            Consuming { client: self.client, consumer, queues, prefetch, name, sink: sink(sender, &returns) };
        self.call(sqlite::consume(consuming)).await?;
        let control = SqliteConsumerControl {
            client: self.client,
            database: Arc::clone(&self.database),
            _returns: returns,
            consumer,
            timeout: self.timeout,
        };
        Ok(Consumer::new(deliveries, Arc::new(control)))
    }

    async fn take(&self, queue: &str, most: usize) -> Result<Vec<Delivery>> {
        let claimed = self.call(sqlite::get(self.client, queue.to_owned(), most)).await?;
        let returns = Arc::new(VerdictSink(Arc::clone(&self.database)));
        Ok(claimed.into_iter().map(|claimed| delivery(claimed, Arc::clone(&returns) as _)).collect())
    }
}

impl Broker for SqliteBroker {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "SQLite",
            counts_crashes: true,
            lists_queues: true,
            peeks: true,
            max_delay: publishing::MAX_DELAY,
            max_early: Duration::ZERO,
        }
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<()>> {
        let (client, topology) = (self.client, topology.clone());
        let job = job::write("declare the topology", move |engine, now, changes| {
            engine.declare(client, &topology, now, changes)
        });
        self.call(job).boxed()
    }

    fn publish(&self, publication: Publication) -> BoxFuture<'_, Result<()>> {
        match self.send(publication) {
            Ok(sent) => sent.boxed(),
            Err(error) => future::ready(Err(error)).boxed(),
        }
    }

    fn consume(&self, subscription: Subscription) -> BoxFuture<'_, Result<Consumer>> {
        self.begin(subscription).boxed()
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>>> {
        self.take(queue, 1).map(|taken| Ok(taken?.pop())).boxed()
    }

    fn get_many<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Delivery>>> {
        self.take(queue, most).boxed()
    }

    fn schedule_log(&self) -> Option<&dyn ScheduleLog> {
        Some(self)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if self.is_closed.swap(true, Ordering::AcqRel) {
                return;
            }
            let closed = self.database.call(sqlite::close(self.client), self.timeout).await;
            if let Err(error) = closed {
                tracing::warn!(%error, "unsettled messages will be redelivered when the lease of this process expires");
            }
        }
        .boxed()
    }
}

impl Administration for SqliteBroker {
    fn queues<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<QueueInfo>>> {
        let names = names.to_vec();
        let count = job::read("count messages", move |engine, now| engine.count(&names, now));
        async move { Ok(self.call(count).await?.into_iter().map(queue_info).collect()) }.boxed()
    }

    fn purge<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<u64>> {
        let queue = queue.to_owned();
        self.call(job::write("purge a queue", move |engine, _, _| engine.purge(&queue))).boxed()
    }

    fn delete_queue<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<()>> {
        let queue = queue.to_owned();
        self.call(job::write("delete a queue", move |engine, _, _| engine.delete(&queue).map(Ok))).boxed()
    }

    fn delete_queue_if<'a>(&'a self, queue: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<u64>> {
        let (client, queue) = (self.client, queue.to_owned());
        let job =
            job::write("delete a queue", move |engine, now, _| engine.delete_if(client, &queue, guard, now));
        self.call(job).boxed()
    }

    fn exchanges<'a>(&'a self, names: &'a [String]) -> BoxFuture<'a, Result<Vec<ExchangeInfo>>> {
        let names = names.to_vec();
        let list = job::read("list exchanges", move |engine, _| engine.exchanges(&names));
        async move { Ok(self.call(list).await?.iter().map(ExchangeInfo::from).collect()) }.boxed()
    }

    fn delete_exchange<'a>(&'a self, exchange: &'a str, guard: DeleteGuard) -> BoxFuture<'a, Result<()>> {
        let name = exchange.to_owned();
        let job = job::write("delete an exchange", move |engine, _, _| engine.delete_exchange(&name, guard));
        self.call(job).boxed()
    }

    fn bindings(&self) -> BoxFuture<'_, Result<Vec<Binding>>> {
        self.call(job::read("list bindings", |engine, _| engine.bindings())).boxed()
    }

    fn unbind<'a>(&'a self, binding: &'a Binding) -> BoxFuture<'a, Result<()>> {
        let binding = binding.clone();
        self.call(job::write("remove a binding", move |engine, _, _| engine.unbind(&binding).map(Ok))).boxed()
    }

    fn oldest<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Duration>>> {
        let queue = queue.to_owned();
        self.call(job::read("read a queue", move |engine, now| engine.oldest(&queue, now))).boxed()
    }

    fn peek<'a>(&'a self, queue: &'a str, most: usize) -> BoxFuture<'a, Result<Vec<Message>>> {
        let queue = queue.to_owned();
        let look = job::read("look at messages", move |engine, _| engine.peek(&queue, most, PEEK_BYTES));
        self.call(look).boxed()
    }

    fn find<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<FoundMessage>>> {
        let id = id.to_owned();
        let find = self.call(job::read("look for a message", move |engine, _| engine.find(&id)));
        async move { Ok(find.await?.into_iter().map(finding::found).collect()) }.boxed()
    }
}

impl fmt::Debug for SqliteBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SqliteBroker")
    }
}

/// Receives the verdicts on the deliveries of one consumer, and keeps the file open as long as there are any.
struct VerdictSink(Arc<Database>);

impl Settle for VerdictSink {
    fn settle(&self, tag: u64, verdict: Verdict) {
        let ending = match verdict {
            Verdict::Ack | Verdict::Replaced => ClaimEnd::Ack,
            Verdict::Requeue => ClaimEnd::Requeue,
            Verdict::Reject => ClaimEnd::Reject,
            Verdict::Lost => ClaimEnd::Lost { pause: LOST_PAUSE },
        };
        self.0.settle(tag, ending);
    }
}

/// Passes messages from the thread to a consumer. Must not keep the file open: the thread would hold its own handle.
fn sink(sender: mpsc::Sender<Delivery>, returns: &Arc<VerdictSink>) -> Sink {
    let returns: Weak<VerdictSink> = Arc::downgrade(returns);
    let closed = sender.clone();
    Sink {
        // A delivery that does not fit or is too late is dropped here, which requeues it.
        hand_out: Arc::new(move |claimed| match returns.upgrade() {
            Some(returns) => {
                let _ = sender.try_send(delivery(claimed, returns));
                true
            }
            None => false,
        }),
        is_closed: Arc::new(move || closed.is_closed()),
    }
}

fn delivery(claimed: Claimed, returns: Arc<VerdictSink>) -> Delivery {
    let Claimed { tag, message, queue, exchange, routing_key, redelivered, crashes } = claimed;
    let settlement = Settlement::new(tag, returns);
    Delivery { message, queue, exchange, routing_key, redelivered, crashes: Some(crashes), settlement }
}

struct SqliteConsumerControl {
    client: u64,
    database: Arc<Database>,
    /// Keeps the sink's weak reference alive: without it deliveries could not be settled.
    _returns: Arc<VerdictSink>,
    consumer: u64,
    timeout: Duration,
}

impl ConsumerControl for SqliteConsumerControl {
    fn cancel(&self) -> BoxFuture<'_, ()> {
        async move {
            let cancelled = self.database.call(sqlite::cancel(self.consumer), self.timeout).await;
            if let Err(error) = cancelled {
                tracing::warn!(%error, "cannot cancel the consumer");
            }
        }
        .boxed()
    }

    fn set_queues(&self, mut queues: Vec<String>) -> BoxFuture<'_, Result<()>> {
        queues.sort_unstable();
        queues.dedup();
        let changed = sqlite::set_queues(self.client, self.consumer, queues);
        self.database.call(changed, self.timeout).boxed()
    }

    fn set_prefetch(&self, prefetch: u16) -> BoxFuture<'_, Result<()>> {
        let changed = sqlite::set_prefetch(self.consumer, prefetch.max(1).into());
        self.database.call(changed, self.timeout).boxed()
    }

    fn is_attached(&self) -> bool {
        self.database.loss().is_none()
    }

    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        self.database.loss()
    }

    fn flush(&self) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.database.call(sqlite::flush(), self.timeout).await {
                tracing::warn!(%error, "cannot write acknowledgements yet");
            }
        }
        .boxed()
    }
}

fn queue_info(count: Count) -> QueueInfo {
    let Count { queue: name, ready, running, delayed, consumers } = count;
    QueueInfo { name, ready, running: Some(running), delayed: Some(delayed), consumers }
}
