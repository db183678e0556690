//! A TCP proxy on loopback that can break connections in every way a network does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Forwards bytes between clients and one server until told otherwise.
///
/// It runs on its own thread, so that a test whose runtime is busy or gone still has its network.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    delays: Arc<Delays>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Delays for AMQP methods that the server sends.
#[derive(Debug, Default)]
struct Delays {
    armed: Mutex<Vec<Delay>>,
    used: AtomicUsize,
}

#[derive(Debug)]
struct Delay {
    method: Method,
    by: Duration,
    times: usize,
}

/// An AMQP method as class and number, such as `(60, 21)` for `basic.consume-ok`.
pub type Method = (u16, u16);

#[derive(Clone, Copy, Debug, Default)]
struct Mode {
    /// Connections of an earlier generation are cut.
    generation: u64,
    stalled: bool,
    refusing: bool,
    /// The server does not see that a client was cut.
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
    /// Starts a proxy in front of `target`, such as `127.0.0.1:5672`.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(target: impl Into<String>) -> Proxy {
        let target = target.into();
        let (mode, watched) = watch::channel(Mode::default());
        let counts = Arc::<Counts>::default();
        let (ready, address) = mpsc::channel();
        let counting = Arc::clone(&counts);
        let delays = Arc::<Delays>::default();
        let delaying = Arc::clone(&delays);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(target, watched, counting, delaying, ready));
        });
        let address = address.recv().expect("the proxy found a port");
        Proxy { address, mode, counts, delays, thread: Some(thread) }
    }

    /// Returns the address for clients.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Resets all connections at once. New ones are accepted.
    pub fn cut(&self) {
        self.mode.send_modify(|mode| mode.generation += 1);
    }

    /// Cuts all connections to clients; the server considers them alive until `tell_the_server`.
    pub fn cut_unnoticed(&self) {
        self.mode.send_modify(|mode| {
            mode.unnoticed = true;
            mode.generation += 1;
        });
    }

    /// Closes the server's side of connections that were cut.
    pub fn tell_the_server(&self) {
        self.mode.send_modify(|mode| mode.unnoticed = false);
    }

    /// Stops or resumes forwarding; connections stay open.
    pub fn stall(&self, on: bool) {
        self.mode.send_modify(|mode| mode.stalled = on);
    }

    /// Stops or resumes listening on the port. Existing connections stay open.
    pub fn refuse(&self, on: bool) {
        self.mode.send_modify(|mode| mode.refusing = on);
    }

    /// Delays the server's next `times` frames of a method. Later frames on the same channel wait behind them; other channels
    /// are not affected.
    pub fn delay(&self, method: Method, by: Duration, times: usize) {
        self.delays.armed.lock().expect("not poisoned").push(Delay { method, by, times });
    }

    /// Returns how many frames were delayed so far.
    pub fn delayed(&self) -> usize {
        self.delays.used.load(Ordering::SeqCst)
    }

    /// Returns how many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    /// Returns how many connections are open now.
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// Returns how many bytes were forwarded, in both directions.
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
    delays: Arc<Delays>,
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
                let (counts, delays) = (Arc::clone(&counts), Arc::clone(&delays));
                tokio::spawn(pass_on(client, target.clone(), mode.clone(), counts, delays));
            }
        }
    }
}

async fn pass_on(
    client: TcpStream,
    target: String,
    mut mode: watch::Receiver<Mode>,
    counts: Arc<Counts>,
    delays: Arc<Delays>,
) {
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // Close with a reset: a client in the middle of a write notices at once.
    let _ = client.set_zero_linger();
    counts.open.fetch_add(1, Ordering::SeqCst);
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let generation = mode.borrow().generation;
    tokio::select! {
        () = one_way(&mut client_read, &mut server_write, mode.clone(), &counts) => {}
        () = late(&mut server_read, &mut client_write, mode.clone(), &counts, &delays) => {}
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
        // Counted first, since the receiver may ask for the count at once.
        counts.bytes.fetch_add(length, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// Like [`one_way`], but AMQP frames may be delayed.
async fn late(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    counts: &Counts,
    delays: &Delays,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut frames = Frames::default();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = frames.due() => Ok(0),
        };
        match read {
            Ok(0) if frames.is_due() => {}
            Ok(length @ 1..) => {
                if mode.wait_for(|mode| !mode.stalled).await.is_err() {
                    return;
                }
                counts.bytes.fetch_add(length, Ordering::SeqCst);
                frames.take(&buffer[..length], delays);
            }
            _ => return,
        }
        if to.write_all(&frames.pass()).await.is_err() {
            return;
        }
    }
}

/// The server's data, frame by frame.
#[derive(Default)]
struct Frames {
    /// An incomplete frame.
    partial: Vec<u8>,
    /// Data that may be forwarded.
    passed: Vec<u8>,
    /// Held frames with their times; those of one channel have the same time.
    held: Vec<(Instant, u16, Vec<u8>)>,
    /// The server does not speak AMQP: everything is forwarded as it arrives.
    is_foreign: bool,
}

impl Frames {
    fn take(&mut self, bytes: &[u8], delays: &Delays) {
        self.partial.extend_from_slice(bytes);
        self.is_foreign |= self.partial.first().is_some_and(|kind| !matches!(kind, 1..=3 | 8));
        while !self.is_foreign && self.partial.len() >= 7 {
            let header = &self.partial[..7];
            let channel = u16::from_be_bytes([header[1], header[2]]);
            let size = u32::from_be_bytes([header[3], header[4], header[5], header[6]]) as usize + 8;
            if self.partial.len() < size {
                break;
            }
            let rest = self.partial.split_off(size);
            self.is_foreign = rest.first().is_some_and(|kind| !matches!(kind, 1..=3 | 8));
            let frame = std::mem::replace(&mut self.partial, rest);
            let behind = self.held.iter().rfind(|(_, held, _)| *held == channel).map(|(due, ..)| *due);
            match behind.or_else(|| delays.of(&frame).map(|by| Instant::now() + by)) {
                Some(due) => self.held.push((due, channel, frame)),
                None => self.passed.extend(frame),
            }
        }
        if self.is_foreign {
            self.passed.append(&mut self.partial);
        }
    }

    /// Takes the data that may be forwarded by now.
    fn pass(&mut self) -> Vec<u8> {
        let now = Instant::now();
        for (_, _, frame) in self.held.extract_if(.., |(due, ..)| *due <= now) {
            self.passed.extend(frame);
        }
        std::mem::take(&mut self.passed)
    }

    fn is_due(&self) -> bool {
        self.held.iter().any(|(due, ..)| *due <= Instant::now())
    }

    async fn due(&self) {
        match self.held.iter().map(|(due, ..)| *due).min() {
            Some(due) => tokio::time::sleep_until(due.into()).await,
            None => std::future::pending().await,
        }
    }
}

impl Delays {
    /// Returns the delay of a frame.
    fn of(&self, frame: &[u8]) -> Option<Duration> {
        let method = match frame {
            [1, _, _, _, _, _, _, a, b, c, d, ..] => {
                (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            _ => return None,
        };
        let mut armed = self.armed.lock().expect("not poisoned");
        let delay = armed.iter_mut().find(|delay| delay.method == method && delay.times > 0)?;
        delay.times -= 1;
        self.used.fetch_add(1, Ordering::SeqCst);
        Some(delay.by)
    }
}
