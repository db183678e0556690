//! A small mail server on loopback.

mod session;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use self::session::{MAX_SIZE, Session, Then};
use super::KEPT;

/// RFC 5321 asks for 512; some clients pipeline long parameters.
const MAX_COMMAND: usize = 2048;

/// Connections beyond these wait until one closes.
const MAX_CONNECTIONS: usize = 512;

/// A client that is silent for this long is disconnected.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A mail that the server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The sender in the envelope.
    pub from: String,
    /// The recipients in the envelope that were not refused.
    pub to: Vec<String>,
    /// Headers and body, with the dots unstuffed.
    pub data: Vec<u8>,
}

/// The server. It stops when dropped.
#[derive(Debug)]
pub struct SmtpSink {
    address: SocketAddr,
    mailbox: Arc<Mailbox>,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Mailbox {
    connections: AtomicUsize,
    /// How many more mails to accept and drop.
    to_lose: AtomicUsize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    newest: VecDeque<Mail>,
    received: HashMap<String, u32>,
}

impl SmtpSink {
    /// Starts a server on a free port of 127.0.0.1. It accepts the first `lose` mails and drops them: a fault for
    /// tests.
    ///
    /// # Errors
    /// Fails if no port is free.
    pub async fn start(lose: usize) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mailbox = Arc::new(Mailbox { to_lose: AtomicUsize::new(lose), ..Mailbox::default() });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&mailbox)));
        Ok(Self { address, mailbox, accepting })
    }

    /// The address for `SMTP_URL`.
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    /// How many mails each recipient got.
    pub fn received(&self) -> HashMap<String, u32> {
        self.mailbox.taken.lock().expect("never poisoned").received.clone()
    }

    /// How many recipients got a mail.
    pub fn recipients(&self) -> usize {
        self.mailbox.taken.lock().expect("never poisoned").received.len()
    }

    /// The newest mails, the oldest of them first.
    pub fn newest(&self) -> Vec<Mail> {
        self.mailbox.taken.lock().expect("never poisoned").newest.iter().cloned().collect()
    }

    /// How many connections were ever made.
    pub fn connections(&self) -> usize {
        self.mailbox.connections.load(Ordering::Relaxed)
    }
}

impl Drop for SmtpSink {
    fn drop(&mut self) {
        // The connections belong to the accepting task and end with it.
        self.accepting.abort();
    }
}

impl Mailbox {
    fn take(&self, mail: Mail) {
        let less = |left: usize| left.checked_sub(1);
        if self.to_lose.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
            return;
        }
        let mut taken = self.taken.lock().expect("never poisoned");
        for recipient in &mail.to {
            *taken.received.entry(recipient.clone()).or_default() += 1;
        }
        if taken.newest.len() == KEPT {
            taken.newest.pop_front();
        }
        taken.newest.push_back(mail);
    }
}

async fn accept(listener: TcpListener, mailbox: Arc<Mailbox>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut conversations = JoinSet::new();
    loop {
        while conversations.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: some connection will close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let mailbox = Arc::clone(&mailbox);
        mailbox.connections.fetch_add(1, Ordering::Relaxed);
        conversations.spawn(async move {
            // A client may disconnect at any moment; its errors are ignored.
            let _ended = converse(stream, &mailbox).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, mailbox: &Mailbox) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    let mut session = Session::default();
    let mut line = Vec::new();
    // Replies to pipelined commands travel together: they are written when no command is left to read.
    let mut replies = String::from("220 notifications ESMTP\r\n");
    loop {
        if reader.buffer().is_empty() {
            write.write_all(replies.as_bytes()).await?;
            replies.clear();
        }
        let Ok(read) = timeout(IDLE_TIMEOUT, read_line(&mut reader, &mut line, MAX_COMMAND)).await else {
            return write.write_all(b"421 4.4.2 you said nothing for too long\r\n").await;
        };
        if read? == Line::TooLong {
            replies.push_str("500 5.5.6 line too long\r\n");
            continue;
        }
        if line.is_empty() {
            return Ok(());
        }
        let Ok(command) = std::str::from_utf8(&line) else {
            replies.push_str("500 5.5.2 not UTF-8\r\n");
            continue;
        };
        let reply = session.command(command.trim_end_matches(['\r', '\n']));
        replies.push_str(&reply.text);
        match reply.then {
            Then::Command => {}
            Then::Close => return write.write_all(replies.as_bytes()).await,
            Then::Data => {
                // The client waits for this one before it goes on.
                write.write_all(replies.as_bytes()).await?;
                replies.clear();
                acknowledge_at_once(write.as_ref());
                let Ok(data) = timeout(IDLE_TIMEOUT, read_data(&mut reader)).await else {
                    return write.write_all(b"421 4.4.2 your mail takes too long\r\n").await;
                };
                replies.push_str(match data? {
                    Some(data) => {
                        mailbox.take(session.finish(data));
                        "250 2.0.0 taken\r\n"
                    }
                    None => {
                        session.discard();
                        "552 5.3.4 too large\r\n"
                    }
                });
            }
        }
    }
}

/// Turns off delayed TCP acks. Clients write a mail and its end in two pieces, and many, `lettre` among them, send
/// the second only when the first is acknowledged. The kernel would delay that ack, and so every mail, by 40 ms.
fn acknowledge_at_once(stream: &TcpStream) {
    #[cfg(target_os = "linux")]
    let _only_slower = socket2::SockRef::from(stream).set_tcp_quickack(true);
    #[cfg(not(target_os = "linux"))]
    let _ = stream;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// With its end; empty if the client has disconnected.
    Whole,
    /// Longer than allowed; the end of it is lost.
    TooLong,
}

/// Reads up to and including the next line feed. What exceeds the limit is read and dropped.
async fn read_line(
    reader: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    limit: usize,
) -> io::Result<Line> {
    line.clear();
    let mut read = Line::Whole;
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            // An incomplete line is not a command.
            line.clear();
            return Ok(Line::Whole);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let part = &buffer[..end.unwrap_or(buffer.len())];
        if line.len() + part.len() > limit {
            read = Line::TooLong;
            line.clear();
        }
        if read == Line::Whole {
            line.extend_from_slice(part);
        }
        let length = part.len();
        reader.consume(length);
        if end.is_some() {
            return Ok(read);
        }
    }
}

/// Reads a mail up to the line with a single dot. `None` if it is too large.
async fn read_data(reader: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut data = Vec::new();
    let mut line = Vec::new();
    let mut too_large = false;
    // Only CRLF ends a line here: accepting a bare LF would allow SMTP smuggling.
    let mut at_start = true;
    loop {
        let read = read_line(reader, &mut line, MAX_SIZE).await?;
        if read == Line::Whole && line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if at_start && line == b".\r\n" {
            return Ok((!too_large).then_some(data));
        }
        let stuffed = usize::from(at_start && line.starts_with(b"."));
        too_large |= read == Line::TooLong || data.len() + line.len() > MAX_SIZE;
        at_start = read == Line::TooLong || line.ends_with(b"\r\n");
        if !too_large {
            data.extend_from_slice(&line[stuffed..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Sends everything at once and returns all replies until the server closes.
    async fn talk(sink: &SmtpSink, text: &[u8]) -> String {
        let mut stream = TcpStream::connect(sink.address).await.unwrap();
        let (mut read, mut write) = stream.split();
        let mut answer = String::new();
        let (sent, heard) =
            tokio::join!(async { write.write_all(text).await }, read.read_to_string(&mut answer));
        sent.unwrap();
        heard.unwrap();
        answer
    }

    fn codes(answer: &str) -> Vec<&str> {
        answer.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect()
    }

    #[tokio::test]
    async fn a_pipelined_conversation_gets_every_reply_in_order() {
        let sink = SmtpSink::start(0).await.unwrap();
        let answer = talk(
            &sink,
            b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@gone.example.com>\r\nRCPT TO:<x@example.com>\r\nDATA\r\n\
              Subject: hi\r\n\r\n..one\r\n.two\r\n...\r\n.\r\nNOOP\r\nMAIL FROM:<a@b.c>\r\nQUIT\r\nNOOP\r\n",
        )
        .await;
        assert_eq!(codes(&answer), ["220", "250", "250", "550", "250", "354", "250", "250", "250", "221"]);
        let mails = sink.newest();
        assert_eq!(mails.len(), 1);
        assert_eq!(mails[0].to, ["x@example.com"]);
        assert_eq!(mails[0].data, b"Subject: hi\r\n\r\n.one\r\ntwo\r\n..\r\n");
    }

    #[tokio::test]
    async fn a_bare_line_feed_ends_no_mail() {
        let sink = SmtpSink::start(0).await.unwrap();
        let answer = talk(
            &sink,
            b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@example.com>\r\nDATA\r\n\
              one\n.\r\nMAIL FROM:<evil@b.c>\r\n.\n.\r\n.\r\nQUIT\r\n",
        )
        .await;
        assert_eq!(codes(&answer), ["220", "250", "250", "250", "354", "250", "221"]);
        assert_eq!(sink.newest()[0].data, b"one\n.\r\nMAIL FROM:<evil@b.c>\r\n\n.\r\n");
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_and_the_conversation_goes_on() {
        let sink = SmtpSink::start(0).await.unwrap();
        let mut text = b"EHLO me\r\nNOOP ".to_vec();
        text.extend(vec![b'x'; 3 * MAX_COMMAND]);
        text.extend(b"\r\n\xff\xfe\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@example.com>\r\nDATA\r\n");
        for _ in 0..3 {
            text.extend(vec![b'y'; MAX_SIZE / 2]);
            text.extend(b"\r\n");
        }
        text.extend(
            b".\r\nRCPT TO:<x@example.com>\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<z@example.com>\r\nDATA\r\n",
        );
        text.extend(vec![b'z'; 2 * MAX_SIZE]);
        text.extend(b"\r\n.\r\nQUIT\r\n");
        let answer = talk(&sink, &text).await;
        assert_eq!(
            codes(&answer),
            [
                "220", "250", "500", "500", "250", "250", "354", "552", "503", "250", "250", "354", "552",
                "221"
            ]
        );
        assert_eq!(sink.recipients(), 0);
    }

    #[tokio::test]
    async fn a_client_that_goes_in_the_middle_leaves_nothing() {
        let sink = SmtpSink::start(0).await.unwrap();
        let mut stream = TcpStream::connect(sink.address).await.unwrap();
        stream.write_all(b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhalf").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(codes(&answer), ["220", "250", "250", "250", "354"]);
        assert_eq!(sink.recipients(), 0);
    }

    #[tokio::test]
    async fn a_faulty_server_says_yes_and_forgets() {
        let sink = SmtpSink::start(1).await.unwrap();
        let mail = b"EHLO me\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n";
        let expected = ["220", "250", "250", "250", "354", "250", "221"];
        assert_eq!(codes(&talk(&sink, mail).await), expected);
        assert_eq!(sink.recipients(), 0);
        assert_eq!(codes(&talk(&sink, mail).await), expected);
        assert_eq!(sink.recipients(), 1);
    }
}
