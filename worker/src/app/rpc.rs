//! Request and reply, as in RabbitMQ's tutorial on remote procedure calls.

use std::collections::HashMap;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{App, Payload};
use crate::broker::{Consumer, Subscription};
use crate::connection::background;
use crate::error::{Error, ErrorKind, Result, TaskFailure};
use crate::message::headers::names;
use crate::message::{Message, Properties};
use crate::routing::names::check_name;
use crate::routing::{Queue, QueueKind, Topology};

/// The default timeout for a reply.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The prefetch of the reply queue; each reply is settled as soon as it is read.
const PREFETCH: u16 = 256;

/// A request that has not been sent yet. Awaiting it sends the request and returns the reply.
#[derive(Debug)]
#[must_use = "nothing is sent until `.await`"]
pub struct Rpc {
    app: App,
    queue: String,
    question: Payload,
    timeout: Duration,
}

impl App {
    /// Sends a request to the server of a queue, in any language, and waits for the reply. The request is a plain
    /// message with `reply_to` and `correlation_id`. A Rust task that subscribes to the queue's name can serve it.
    ///
    /// ```no_run
    /// # async fn demo(app: mq_worker::App) -> mq_worker::Result<()> {
    /// use std::time::Duration;
    ///
    /// let answer = app.rpc("rpc_queue", "30").timeout(Duration::from_secs(5)).await?;
    /// println!("fib(30) = {}", answer.text()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rpc(&self, queue: impl Into<String>, question: impl Into<Payload>) -> Rpc {
        let (queue, question) = (queue.into(), question.into());
        Rpc { app: self.clone(), queue, question, timeout: DEFAULT_TIMEOUT }
    }
}

impl Rpc {
    /// Stops waiting after this long; the default is 30 seconds. The request stays in its queue.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    async fn ask(self) -> Result<Payload> {
        let Self { app, queue, question, timeout } = self;
        check_name("queue", &queue)?;
        let asked = async {
            let (reply_to, answer) = app.0.replies.expect(&app).await?;
            let properties = Properties {
                correlation_id: Some(answer.id.clone()),
                reply_to: Some(reply_to),
                ..Properties::default()
            };
            app.publish_with("", &queue, question, properties).await?;
            answer.wait().await
        };
        match background::timeout(timeout, asked).await? {
            Some(answer) => answered(&queue, answer?),
            None => Err(Error::timeout(format!(
                "no reply from queue `{queue}` within {}",
                humantime::format_duration(timeout)
            ))),
        }
    }
}

impl IntoFuture for Rpc {
    type Output = Result<Payload>;
    type IntoFuture = BoxFuture<'static, Result<Payload>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.ask())
    }
}

/// Returns the reply, or the task's error: our workers mark it with a header and send its text as the body.
fn answered(queue: &str, message: Message) -> Result<Payload> {
    let Some(kind) = message.headers.get_str(names::ERROR) else { return Ok(message.into()) };
    let failure = TaskFailure {
        kind: kind.to_owned(),
        module: String::new(),
        message: String::from_utf8_lossy(&message.body).into_owned(),
        traceback: None,
        arguments: Box::default(),
    };
    let what = format!("the request to queue `{queue}` failed: {failure}");
    Err(Error::new(ErrorKind::Failed(failure), what))
}

/// The replies to this process: one exclusive queue for all its requests.
#[derive(Default)]
pub(super) struct Replies {
    /// Locked while the queue is created, so that only one is created.
    inbox: tokio::sync::Mutex<Option<Inbox>>,
    waiting: Waiting,
}

/// The callers that wait for a reply.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Message>>>>;

struct Inbox {
    queue: String,
    listener: JoinHandle<()>,
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Replies {
    /// Returns the address for a reply, and the handle that waits for it.
    async fn expect(&self, app: &App) -> Result<(String, Answer)> {
        let mut inbox = self.inbox.lock().await;
        // A listener stops with its broker.
        let alive = inbox.take().filter(|inbox| !inbox.listener.is_finished());
        let open = match alive {
            Some(open) => open,
            None => open(app, Arc::clone(&self.waiting)).await?,
        };
        let queue = inbox.insert(open).queue.clone();
        let id = Uuid::now_v7().to_string();
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(id.clone(), sender);
        Ok((queue, Answer { id, receiver, waiting: Arc::clone(&self.waiting) }))
    }

    pub(super) async fn close(&self) {
        self.inbox.lock().await.take();
        lock(&self.waiting).clear();
    }
}

async fn open(app: &App, waiting: Waiting) -> Result<Inbox> {
    let name = format!("mq.reply.{}", Uuid::now_v7());
    let queue = Queue {
        durable: false,
        exclusive: true,
        auto_delete: true,
        kind: Some(QueueKind::Classic),
        ..Queue::new(&name)
    };
    let broker = app.broker().await?;
    broker.declare(&Topology::of_queue(queue)).await?;
    let subscription =
        Subscription { queues: vec![name.clone()], prefetch: PREFETCH, name: app.worker_name() };
    let consumer = broker.consume(subscription).await?;
    Ok(Inbox { queue: name, listener: background::spawn(listen(consumer, waiting))? })
}

/// Passes each reply to its caller. Late replies are dropped.
async fn listen(mut consumer: Consumer, waiting: Waiting) {
    while let Some(delivery) = consumer.next().await {
        let id = delivery.message.properties.correlation_id.as_deref().unwrap_or_default();
        let asker = lock(&waiting).remove(id);
        if let Some(asker) = asker {
            // The caller may have just given up.
            let _ = asker.send(delivery.message.clone());
        }
        delivery.ack();
    }
}

/// Waits for one reply. Dropping it abandons the request.
struct Answer {
    id: String,
    receiver: oneshot::Receiver<Message>,
    waiting: Waiting,
}

impl Answer {
    async fn wait(mut self) -> Result<Message> {
        (&mut self.receiver)
            .await
            .map_err(|_| Error::connection("the application was closed while it waited for a reply"))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.id);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Message>>> {
    // A panic elsewhere leaves the map intact.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
