//! A proxy that speaks enough AMQP to make a worker deaf: it swallows `basic.consume` and answers it in the broker's place.
//! Heartbeats and everything else pass, so that the worker is connected but consumes nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Length of the protocol header, which is not a frame.
const GREETING: usize = 8;
const METHOD: u8 = 1;
const FRAME_END: u8 = 0xCE;
/// Class and method.
const CONSUME: [u8; 4] = [0, 60, 0, 20];
const CONSUME_OK: [u8; 4] = [0, 60, 0, 21];

/// The proxy. Its threads end with their connections; the listener's thread ends with the process.
pub(crate) struct Swallowing {
    pub(crate) address: SocketAddr,
    swallows: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Swallowing {
    pub(crate) fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let swallows = Arc::new(AtomicBool::new(false));
        let connections = Arc::<Mutex<Vec<TcpStream>>>::default();
        let (wanted, open) = (Arc::clone(&swallows), Arc::clone(&connections));
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(&target) else { continue };
                let twin = |stream: &TcpStream| stream.try_clone().expect("a second handle");
                open.lock().expect("never poisoned").push(twin(&client));
                let to_client = Arc::new(Mutex::new(twin(&client)));
                let (answers, from_server, to_server) =
                    (Arc::clone(&to_client), twin(&server), twin(&server));
                let wanted = Arc::clone(&wanted);
                thread::spawn(move || {
                    let _ = upwards(&client, &to_server, &answers, &wanted);
                    let _ = to_server.shutdown(Shutdown::Both);
                });
                thread::spawn(move || {
                    let _ = downwards(&from_server, &to_client);
                    let _ = to_client.lock().expect("never poisoned").shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, swallows, connections }
    }

    /// Keeps new consumers from reaching the broker from now on, and closes all connections.
    pub(crate) fn swallow_consumers(&self) {
        self.swallows.store(true, Ordering::SeqCst);
        for connection in self.connections.lock().expect("never poisoned").drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn upwards(
    mut client: &TcpStream,
    mut server: &TcpStream,
    answers: &Mutex<TcpStream>,
    swallows: &AtomicBool,
) -> std::io::Result<()> {
    let mut greeting = [0; GREETING];
    client.read_exact(&mut greeting)?;
    server.write_all(&greeting)?;
    loop {
        let frame = frame(client)?;
        match consumer_tag(&frame).filter(|_| swallows.load(Ordering::SeqCst)) {
            Some(tag) => {
                let payload = [&CONSUME_OK[..], tag].concat();
                let length = u32::try_from(payload.len()).expect("a tag is short").to_be_bytes();
                let answer = [&[METHOD], &frame[1..3], &length, &payload, &[FRAME_END]].concat();
                answers.lock().expect("never poisoned").write_all(&answer)?;
            }
            None => server.write_all(&frame)?,
        }
    }
}

fn downwards(server: &TcpStream, client: &Mutex<TcpStream>) -> std::io::Result<()> {
    loop {
        let frame = frame(server)?;
        client.lock().expect("never poisoned").write_all(&frame)?;
    }
}

/// Reads a frame: type, channel, length, payload, end.
fn frame(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut frame = vec![0; 7];
    from.read_exact(&mut frame)?;
    let length = u32::from_be_bytes(frame[3..7].try_into().expect("four bytes"));
    let length = usize::try_from(length).expect("32 bits") + 1;
    frame.resize(7 + length, 0);
    from.read_exact(&mut frame[7..])?;
    Ok(frame)
}

/// Returns the tag, with its length byte, if this frame is a `basic.consume`.
fn consumer_tag(frame: &[u8]) -> Option<&[u8]> {
    let fields = frame.get(7..)?.strip_prefix(&CONSUME).filter(|_| frame[0] == METHOD)?;
    // Skip a reserved number, then the queue's name.
    let fields = fields.get(2..)?;
    let fields = fields.get(1 + usize::from(*fields.first()?)..)?;
    fields.get(..1 + usize::from(*fields.first()?))
}
