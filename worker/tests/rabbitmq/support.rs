//! What the tests share: a broker under a name of its own, queues that are deleted at the end, a proxy to cut.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mq_worker::broker::{self, Broker, Consumer, Delivery, Publication, Subscription};
use mq_worker::message::{Headers, Message};
use mq_worker::{ConnectOptions, Queue, QueueKind, TlsOptions, Topology};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{RwLock, RwLockReadGuard, watch};
use tokio::time::timeout;
use uuid::Uuid;

/// Held by tests that change the whole server; all others share it.
pub(crate) static SERVER: RwLock<()> = RwLock::const_new(());

/// Long enough for a slow machine, short enough for a hang to be seen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The server's address, or `None` after having said that the test is left out.
pub(crate) fn url() -> Option<String> {
    variable("MQ_TEST_AMQP_URL")
}

/// A variable, or `None` after having said that the test is left out.
pub(crate) fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        // Not `eprintln`: the test harness would keep that for itself.
        writeln!(std::io::stderr(), "left out, {name} is not set: {test}").expect("stderr takes it");
    }
    value
}

/// Runs `rabbitmqctl`; `None` after having said that the test is left out.
pub(crate) fn ctl() -> Option<impl Fn(&[&str])> {
    let command = variable("MQ_TEST_AMQP_CTL")?;
    Some(move |arguments: &[&str]| {
        let done = std::process::Command::new(&command).args(arguments).output().expect("it starts");
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    })
}

pub(crate) fn options() -> ConnectOptions {
    ConnectOptions {
        timeout: Duration::from_secs(10),
        queue_kind: QueueKind::Quorum,
        tls: TlsOptions::default(),
        // A name of its own makes a connection of its own.
        name: format!("test {}", Uuid::new_v4()),
    }
}

/// A broker and the queues of one test.
pub(crate) struct Fixture {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) url: String,
    prefix: String,
    queues: Mutex<Vec<String>>,
    _server: Option<RwLockReadGuard<'static, ()>>,
}

impl Fixture {
    /// `None` when there is no server.
    pub(crate) async fn new() -> Option<Self> {
        let url = url()?;
        let server = SERVER.read().await;
        Some(Self { _server: Some(server), ..Self::alone(&url).await })
    }

    /// For tests that hold the whole server, or go through a proxy.
    pub(crate) async fn alone(url: &str) -> Self {
        Self::with(url, options()).await
    }

    pub(crate) async fn with(url: &str, options: ConnectOptions) -> Self {
        let broker = broker::open(&url.parse().expect("a URL"), &options).await.expect("a good address");
        let prefix = format!("mqw.test.{}", Uuid::new_v4().simple());
        Self { broker, url: url.to_owned(), prefix, queues: Mutex::default(), _server: None }
    }

    /// A name that nobody else has, deleted at the end.
    pub(crate) fn name(&self, name: &str) -> String {
        let name = format!("{}.{name}", self.prefix);
        self.queues.lock().expect("not poisoned").push(name.clone());
        name
    }

    /// Declares a queue, changed as the test wants it.
    pub(crate) async fn queue(&self, name: &str, change: impl FnOnce(&mut Queue)) -> String {
        let name = self.name(name);
        let mut queue = Queue::new(name.clone());
        change(&mut queue);
        self.broker.declare(&Topology::of_queue(queue)).await.expect("declared");
        name
    }

    pub(crate) async fn consume(&self, queue: &str, prefetch: u16) -> Consumer {
        let subscription = Subscription { queues: vec![queue.into()], prefetch, name: "test".into() };
        self.broker.consume(subscription).await.expect("consuming")
    }

    pub(crate) async fn send(&self, queue: &str, id: &str) -> mq_worker::Result<()> {
        self.broker.publish(to(queue, id)).await
    }

    pub(crate) async fn ready(&self, queue: &str) -> u64 {
        let found = self.broker.queues(&[queue.to_owned()]).await.expect("an answer");
        found.first().map_or(0, |queue| queue.ready)
    }

    /// Deletes the test's queues and closes. A test that fails before leaves them.
    pub(crate) async fn end(self) {
        let queues = std::mem::take(&mut *self.queues.lock().expect("not poisoned"));
        for queue in queues {
            let _ = self.broker.delete_queue(&queue).await;
        }
        timeout(SOON, self.broker.close()).await.expect("closing ends");
    }
}

pub(crate) fn message(id: &str) -> Message {
    Message {
        headers: Headers::for_task("test", id),
        body: br#"[[],{},{}]"#[..].into(),
        ..Message::default()
    }
}

/// A message straight to a queue.
pub(crate) fn to(queue: &str, id: &str) -> Publication {
    Publication { routing_key: queue.into(), message: message(id), mandatory: true, ..Publication::default() }
}

pub(crate) fn id(delivery: &Delivery) -> String {
    delivery.message.headers.id().expect("an id").to_owned()
}

/// The next delivery, soon.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    timeout(SOON, consumer.next()).await.expect("a delivery in time").expect("the stream goes on")
}

/// Until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Between a client and the server: it cuts connections, swallows what they say, or refuses new ones.
pub(crate) struct Proxy {
    pub(crate) url: String,
    control: watch::Sender<Mode>,
}

#[derive(Clone, Copy, PartialEq)]
struct Mode {
    /// Connections of an older round are cut.
    round: u32,
    /// Nothing gets through.
    is_stalled: bool,
    /// New connections are cut at once.
    refuses: bool,
}

impl Proxy {
    pub(crate) async fn start(url: &str) -> Self {
        let at = url.rfind('@').map_or_else(|| url.find("//").expect("a URL") + 2, |at| at + 1);
        let end = url[at..].find('/').map_or(url.len(), |end| at + end);
        let server = url[at..end].to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let local: SocketAddr = listener.local_addr().expect("bound");
        let control = watch::Sender::new(Mode { round: 0, is_stalled: false, refuses: false });
        let modes = control.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mode = modes.subscribe();
                let server = server.clone();
                tokio::spawn(async move {
                    if mode.borrow().refuses {
                        return;
                    }
                    let Ok(upstream) = TcpStream::connect(server).await else { return };
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = upstream.into_split();
                    tokio::join!(
                        pass(client_in, server_out, mode.clone()),
                        pass(server_in, client_out, mode)
                    );
                });
            }
        });
        Self { url: format!("{}{local}{}", &url[..at], &url[end..]), control }
    }

    /// Cuts all connections.
    pub(crate) fn cut(&self) {
        self.control.send_modify(|mode| mode.round += 1);
    }

    pub(crate) fn stall(&self, is_stalled: bool) {
        self.control.send_modify(|mode| mode.is_stalled = is_stalled);
    }

    pub(crate) fn refuse(&self, refuses: bool) {
        self.control.send_modify(|mode| mode.refuses = refuses);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut mode: watch::Receiver<Mode>,
) {
    let round = mode.borrow().round;
    let mut buffer = vec![0; 65_536];
    loop {
        let now = *mode.borrow_and_update();
        if now.round != round {
            return;
        }
        tokio::select! {
            biased;
            _ = mode.changed() => {}
            read = from.read(&mut buffer), if !now.is_stalled => match read {
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    if to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
