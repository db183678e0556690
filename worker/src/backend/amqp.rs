//! Results as messages: Celery's `rpc://`. A worker publishes each result to the queue that the caller named in
//! `reply_to`, and the caller keeps the results that it expects.
//!
//! Celery's reply queues are auto-delete: they vanish with the connection, and results that arrive before it is restored
//! are lost. Here the queue stays for a while without its consumer, so that one name serves for the life of the process
//! and a lost connection costs no results. It is deleted when the process closes the backend, or expires some minutes
//! after the process has died.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lapin::options::QueueDeleteOptions;
use lapin::types::FieldTable;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::answers::{self, Answers};
use super::inbox::{Inbox, REMEMBERED};
use super::{Awaited, BackendOptions, ResultBackend, ResultRecord};
use crate::connection::BrokerUrl;
use crate::connection::amqp::channel::{ANSWER, Scratch};
use crate::connection::amqp::declare::short;
use crate::connection::amqp::failure::{reply_code, text};
use crate::connection::amqp::link::{Pause, lock};
use crate::connection::amqp::subscription::{Ack, Event, Source, Subscribed};
use crate::connection::amqp::{Amqp, runtime};
use crate::error::{Error, ErrorKind, Result};
use crate::routing::{Queue, QueueKind, Topology};
use crate::tracing::{debug, warn};

/// How long the reply queue lives without a consumer: no results are lost if the connection is restored within this time.
const KEPT: Duration = Duration::from_secs(600);
/// The prefetch of the reply queue.
const PREFETCH: u16 = 1000;

/// Celery's `rpc://`.
pub(super) struct RpcBackend {
    amqp: Arc<Amqp>,
    answers: Answers,
    replies: Arc<Replies>,
    closed: Mutex<bool>,
}

/// The reply queue and the results that it delivered.
struct Replies {
    /// The name of the reply queue.
    queue: String,
    expires: Duration,
    inbox: Mutex<Inbox>,
    /// True while the reply queue is consumed; `None` before the first use.
    started: Mutex<Option<watch::Receiver<bool>>>,
    stop: CancellationToken,
}

impl RpcBackend {
    /// Opens a backend that sends results through `broker`, or through another RabbitMQ if `url` names one.
    ///
    /// # Errors
    /// A broker that is not RabbitMQ, an invalid URL, or a TLS file that cannot be read.
    pub(super) fn open(broker: &BrokerUrl, url: &BrokerUrl, options: &BackendOptions) -> Result<Self> {
        let through = if url.scheme() == "rpc" { broker } else { url };
        if !matches!(through.scheme().as_str(), "amqp" | "amqps") {
            return Err(Error::config(format!(
                "the result backend `{url}` sends results through RabbitMQ, but the broker is `{broker}`"
            )));
        }
        let amqp = Amqp::share(through, &options.connect)?;
        Ok(Self {
            answers: Answers::new(Arc::clone(&amqp)),
            amqp,
            replies: Arc::new(Replies {
                queue: answers::own_queue(),
                expires: options.expires.clamp(Duration::from_millis(1), KEPT),
                inbox: Mutex::default(),
                started: Mutex::default(),
                stop: CancellationToken::new(),
            }),
            closed: Mutex::default(),
        })
    }

    /// Resolves once the reply queue exists. The first call starts the task that maintains it.
    async fn ready(&self) -> Result<()> {
        let mut ready = lock(&self.replies.started)
            .get_or_insert_with(|| {
                let (is_ready, ready) = watch::channel(false);
                let work = keep(Arc::clone(&self.amqp), Arc::clone(&self.replies), is_ready);
                self.amqp.spawn(work);
                ready
            })
            .clone();
        // Once it has existed, its name can be used even while the connection is lost.
        if *ready.borrow() {
            return Ok(());
        }
        let limit = self.amqp.limit;
        let ready = async {
            // Reports a refused login at once.
            self.amqp.link.session(0, Instant::now() + limit).await?;
            match runtime::timeout(limit, ready.wait_for(|ready| *ready)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => Err(closed()),
                Err(_) => Err(Error::timeout("timed out declaring the result queue")),
            }
        };
        ready.await.map_err(|error| error.context("cannot wait for results"))
    }

    fn unexpected(id: &str) -> Error {
        Error::unsupported(format!(
            "the result of task {id} is not known to this process: over rpc:// a result reaches only the process that \
             sent the call, which keeps it for as long as it has a handle and for the last {REMEMBERED} calls without \
             one; to read results by id from any process, set `result_backend = \"redis://HOST\"` (or `postgres://HOST/DB`; \
             `sqlite:PATH` on one machine) for callers and workers alike"
        ))
    }
}

impl ResultBackend for RpcBackend {
    fn expect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        async move {
            self.ready().await?;
            lock(&self.replies.inbox).expect(id);
            Ok(Some(self.replies.queue.clone()))
        }
        .boxed()
    }

    fn release(&self, id: &str) {
        lock(&self.replies.inbox).release(id);
    }

    fn store<'a>(&'a self, record: &'a ResultRecord, reply_to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        self.answers.send(record, reply_to).boxed()
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        async move {
            if self.replies.stop.is_cancelled() {
                return Err(closed());
            }
            match lock(&self.replies.inbox).get(id) {
                Some((record, _)) => Ok(record.cloned()),
                None => Err(Self::unexpected(id)),
            }
        }
        .boxed()
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        async move {
            loop {
                let changed = match lock(&self.replies.inbox).get(id) {
                    Some((Some(record), _)) if awaited.is_met_by(record) => return Ok(record.clone()),
                    // Registered while the lock is held, so that no change is missed.
                    Some((_, changed)) => Arc::clone(changed).notified_owned(),
                    None => return Err(Self::unexpected(id)),
                };
                tokio::select! {
                    () = changed => {}
                    () = self.replies.stop.cancelled() => return Err(closed()),
                }
            }
        }
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<()>> {
        lock(&self.replies.inbox).forget(id);
        std::future::ready(Ok(())).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            if std::mem::replace(&mut *lock(&self.closed), true) {
                return;
            }
            self.replies.stop.cancel();
            let kept = lock(&self.replies.started).take();
            if let Some(mut ready) = kept {
                // Wait until the task has deleted the queue and dropped its sender.
                let ended = async { while ready.changed().await.is_ok() {} };
                let _ = runtime::timeout(ANSWER * 2, ended).await;
            }
            self.amqp.close().await;
        }
        .boxed()
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Gone, "the result backend was closed")
}

impl Drop for RpcBackend {
    fn drop(&mut self) {
        self.replies.stop.cancel();
    }
}

impl Replies {
    /// Keeps the expected results of a message. A final state is not overwritten.
    fn note(&self, body: &[u8]) {
        for json in answers::read(body) {
            let record = match ResultRecord::from_json(json) {
                Ok(record) => record,
                Err(error) => {
                    warn!(%error, "received a message on the result queue that is not a result");
                    continue;
                }
            };
            let id = record.task_id.clone();
            if !lock(&self.inbox).note(record, json.len()) {
                debug!(id, "dropped a result that is no longer awaited");
            }
        }
    }

    /// The declaration of the reply queue.
    fn topology(&self) -> Topology {
        // RabbitMQ rejects zero and values beyond 32 bits: replace these by the longest expiry.
        let longest = Duration::from_millis(u32::MAX.into());
        let expires =
            Some(self.expires).filter(|expires| (1..u32::MAX.into()).contains(&expires.as_millis()));
        let (kind, expires) = (Some(QueueKind::Classic), expires.or(Some(longest)));
        Topology::of_queue(Queue { kind, expires, ..Queue::new(&*self.queue) })
    }

    /// Receives results until the channel is lost, and returns the reason.
    async fn take(&self, subscribed: &mut Subscribed) -> Option<lapin::Error> {
        let mut last = None;
        loop {
            match subscribed.next(true).await {
                Event::Delivered(delivery) => {
                    self.note(&delivery.data);
                    last = Some(Ack { tag: delivery.delivery_tag, multiple: true });
                }
                Event::Written | Event::Confirmed => {}
                Event::Ended => return None,
                Event::Lost(error) => return Some(error),
            }
            // While an ack is being written, further deliveries are gathered for the next one.
            if !subscribed.is_writing() {
                last.take().into_iter().for_each(|ack| subscribed.ack(vec![ack]));
            }
        }
    }
}

/// Maintains the reply queue across reconnects, until the backend is closed or dropped.
async fn keep(amqp: Arc<Amqp>, replies: Arc<Replies>, ready: watch::Sender<bool>) {
    let topology = replies.topology();
    let declare = async |mut scratch| amqp.desired.declare(&mut scratch, &topology).await;
    let source = Source {
        queue: replies.queue.as_str().into(),
        prefetch: PREFETCH,
        tag: format!("results.{}", replies.queue),
        arguments: FieldTable::default(),
    };
    let work = async {
        let mut pause = Pause::default();
        while let Err(error) = amqp.ask("declare the queue for results", declare).await {
            warn!(error = format!("{error:#}"), "trying again");
            sleep(pause.next(false)).await;
        }
        loop {
            let mut subscribed = source.clone().subscribe_again(Arc::clone(&amqp), || ()).await;
            ready.send_replace(true);
            pause = Pause::default();
            match replies.take(&mut subscribed).await {
                Some(error) if reply_code(&error).is_some() => {
                    warn!(reason = text(&error), "the result queue is unavailable");
                }
                _ => amqp.link.suspect(),
            }
            sleep(pause.next(false)).await;
        }
    };
    tokio::select! {
        () = work => {}
        () = replies.stop.cancelled() => {}
    }
    amqp.desired.forget_queue(&replies.queue);
    let delete = async {
        let session = amqp.link.session(0, Instant::now()).await.ok()?;
        let name = short(&replies.queue).ok()?;
        let options = QueueDeleteOptions::default();
        Scratch::new(session).run(async |channel| channel.queue_delete(name, options).await).await.ok()
    };
    // If it cannot be deleted, the queue expires.
    let _ = timeout(ANSWER, delete).await;
}
