//! Asking a question and waiting for the answer, as in RabbitMQ's tutorial on remote procedure calls.

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
use crate::routing::topology::check_name;
use crate::routing::{Queue, QueueKind, Topology};

/// How long an answer may take unless the caller says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers that may be on their way to this process; each is settled as soon as it is read.
const PREFETCH: u16 = 256;

/// A question that was not asked yet. Awaiting it asks, and gives the answer.
#[derive(Debug)]
#[must_use = "nothing is asked until `.await`"]
pub struct Rpc {
    app: App,
    queue: String,
    question: Payload,
    timeout: Duration,
}

impl App {
    /// Asks whoever serves a queue, in any language, and waits for the answer: a plain message whose `reply_to`
    /// and `correlation_id` are set. A Rust task that subscribes to the queue's name serves it too.
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
    /// Gives up after this long; default is 30 seconds. The question stays in its queue.
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
                "no answer from queue `{queue}` within {}",
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

/// A worker of ours says in a header that the task failed; the body is the error's text.
fn answered(queue: &str, message: Message) -> Result<Payload> {
    let Some(kind) = message.headers.get_str(names::ERROR) else { return Ok(message.into()) };
    let failure = TaskFailure {
        kind: kind.to_owned(),
        module: String::new(),
        message: String::from_utf8_lossy(&message.body).into_owned(),
        traceback: None,
    };
    let what = format!("the question to queue `{queue}` failed: {failure}");
    Err(Error::new(ErrorKind::Failed(failure), what))
}

/// The answers to this process: one exclusive queue for all its questions.
#[derive(Default)]
pub(super) struct Replies {
    /// Held while the queue is made, so that there is one.
    inbox: tokio::sync::Mutex<Option<Inbox>>,
    waiting: Waiting,
}

/// Who waits for which answer.
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
    /// Where the answer shall go, and the right to wait for it.
    async fn expect(&self, app: &App) -> Result<(String, Answer)> {
        let mut inbox = self.inbox.lock().await;
        // A listener ends with its broker.
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

/// Hands each answer to whoever waits for it. One that comes too late is dropped.
async fn listen(mut consumer: Consumer, waiting: Waiting) {
    while let Some(delivery) = consumer.next().await {
        let id = delivery.message.properties.correlation_id.as_deref().unwrap_or_default();
        let asker = lock(&waiting).remove(id);
        if let Some(asker) = asker {
            // The asker may have given up in this moment.
            let _ = asker.send(delivery.message.clone());
        }
        delivery.ack();
    }
}

/// The right to wait for one answer. Dropping it forgets the question.
struct Answer {
    id: String,
    receiver: oneshot::Receiver<Message>,
    waiting: Waiting,
}

impl Answer {
    async fn wait(mut self) -> Result<Message> {
        (&mut self.receiver)
            .await
            .map_err(|_| Error::connection("the application was closed while it waited for an answer"))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.id);
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<Message>>> {
    // A map stays a map whoever panicked beside it.
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
