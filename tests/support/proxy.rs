//! A TCP proxy on loopback, for losing a connection in every way that networks know.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes bytes on between clients and one server, until told otherwise.
///
/// It runs on a thread of its own, so that a test whose runtime is busy or gone still has its network.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Connections of an earlier generation are cut.
    generation: u64,
    stalled: bool,
    refusing: bool,
    /// The server is not told that a client was cut.
    unnoticed: bool,
    ended: bool,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicUsize,
    open: AtomicUsize,
    bytes: AtomicUsize,
}

impl Proxy {
    /// Starts a proxy before `target`, such as `127.0.0.1:5672`.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(target: impl Into<String>) -> Proxy {
        let target = target.into();
        let (mode, watched) = watch::channel(Mode::default());
        let counts = Arc::<Counts>::default();
        let (ready, address) = mpsc::channel();
        let counting = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(target, watched, counting, ready));
        });
        let address = address.recv().expect("the proxy found a port");
        Proxy { address, mode, counts, thread: Some(thread) }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Breaks all connections at once, with a reset. New ones are welcome.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Breaks all connections to clients; the server goes on believing in them until `tell_the_server`.
    pub fn cut_unnoticed(&self) {
        self.mode.send_modify(|mode| {
            mode.unnoticed = true;
            mode.generation += 1;
        });
    }

    /// Tells the server which of its clients are gone.
    pub fn tell_the_server(&self) {
        self.mode.send_modify(|mode| mode.unnoticed = false);
    }

    /// Passes nothing on any more, and closes nothing either; or passes on again.
    pub fn stall(&self, on: bool) {
        self.mode.send_modify(|mode| mode.stalled = on);
    }

    /// Nobody listens on the port any more; or somebody does again. Connections that exist live on.
    pub fn refuse(&self, on: bool) {
        self.mode.send_modify(|mode| mode.refusing = on);
    }

    /// How many connections there were so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// How many connections there are now.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// How many bytes were passed on, in both directions.
    pub fn bytes(&self) -> usize {
        self.counts.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.send_modify(|mode| mode.ended = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    target: String,
    mut mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    ready: mpsc::Sender<SocketAddr>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let _ = ready.send(address);
    let mut listener = Some(listener);
    loop {
        let now = *mode.borrow_and_update();
        if now.ended {
            return;
        }
        if now.refusing {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = mode.changed() => {}
            client = accepted => {
                let Ok((client, _)) = client else { continue };
                counts.accepted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass_on(client, target.clone(), mode.clone(), Arc::clone(&counts)));
            }
        }
    }
}

async fn pass_on(client: TcpStream, target: String, mut mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Closed with a reset: a client in the middle of a write learns of it at once.
    let _ = client.set_zero_linger();
    counts.open.fetch_add(1, Ordering::SeqCst);
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let generation = mode.borrow().generation;
    tokio::select! {
        () = one_way(&mut client_read, &mut server_write, mode.clone(), &counts) => {}
        () = one_way(&mut server_read, &mut client_write, mode.clone(), &counts) => {}
        () = cut(mode.clone(), generation) => {}
    }
    counts.open.fetch_sub(1, Ordering::SeqCst);
    drop((client_read, client_write));
    let _ = mode.wait_for(|mode| !mode.unnoticed || mode.ended).await;
}

async fn cut(mut mode: watch::Receiver<Mode>, generation: u64) {
    let _ = mode.wait_for(|mode| mode.generation != generation || mode.ended).await;
}

async fn one_way(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    counts: &Counts,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        if mode.wait_for(|mode| !mode.stalled).await.is_err() {
            return;
        }
        // Counted first: whoever gets them may ask at once.
        counts.bytes.fetch_add(length, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
