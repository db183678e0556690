//! Results as messages: Celery's `rpc://`. A worker publishes each result to the queue that the caller named in
//! `reply_to`, and the caller keeps what it waits for.
//!
//! Celery's reply queues are auto-delete: they are gone with the connection, and so is every result that comes before
//! it is back. Here the queue stays for a while without its consumer, so that one name serves for the life of the
//! process and a lost connection costs no results. It goes when the process says goodbye, or some minutes after a
//! process that did not.

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

/// How long the reply queue lives without its consumer: the longest loss of connection that costs no results.
const KEPT: Duration = Duration::from_secs(600);
/// Results that may be on their way to us at once.
const PREFETCH: u16 = 1000;

/// Celery's `rpc://`.
pub(super) struct RpcBackend {
    amqp: Arc<Amqp>,
    answers: Answers,
    replies: Arc<Replies>,
    closed: Mutex<bool>,
}

/// What the reply queue brought, and who waits for it.
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
    /// The results that travel through `broker`, or through another RabbitMQ if `url` names one.
    ///
    /// # Errors
    /// A broker that is not RabbitMQ, an address with a mistake, or a file for TLS that cannot be read.
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

    /// Resolves when the reply queue is there; the first call starts the task that keeps it.
    async fn ready(&self) -> Result<()> {
        let mut ready = lock(&self.replies.started)
            .get_or_insert_with(|| {
                let (is_ready, ready) = watch::channel(false);
                let work = keep(Arc::clone(&self.amqp), Arc::clone(&self.replies), is_ready);
                self.amqp.spawn(work);
                ready
            })
            .clone();
        // Once it has been there, its name is good even while the connection is away.
        if *ready.borrow() {
            return Ok(());
        }
        let limit = self.amqp.limit;
        let ready = async {
            // Tells a refused login at once.
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
                    // Listens from here on, while the lock is held: nothing is missed.
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
                // Until the task has deleted the queue and dropped its half.
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
    /// Notes the results in a message, if anyone expects them. A final state stays.
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

    /// The reply queue.
    fn topology(&self) -> Topology {
        // RabbitMQ refuses zero and what has more than 32 bits: for ever is as long as it can be.
        let longest = Duration::from_millis(u32::MAX.into());
        let expires =
            Some(self.expires).filter(|expires| (1..u32::MAX.into()).contains(&expires.as_millis()));
        let (kind, expires) = (Some(QueueKind::Classic), expires.or(Some(longest)));
        Topology::of_queue(Queue { kind, expires, ..Queue::new(&*self.queue) })
    }

    /// Takes results until the channel is lost, and says why.
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
            // What comes while acks are on their way goes into the next.
            if !subscribed.is_writing() {
                last.take().into_iter().for_each(|ack| subscribed.ack(vec![ack]));
            }
        }
    }
}

/// Keeps the reply queue, through every reconnect, until the backend is closed or dropped.
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
    // What cannot be deleted expires.
    let _ = timeout(ANSWER, delete).await;
}
