//! The protocol between a worker and the process of an isolated task: one call and one reply, each with a head in JSON and a
//! raw body. Both sides are the same program, started from the same file.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::message::{Headers, Properties, ResultTypes};
use crate::panics::Panic;
use crate::runtime::execution::ended::Ended;
use crate::task::{Context, TaskError};
use crate::traces::continue_in;

/// Asks the task to stop at its soft time limit: its cancellation token fires.
pub(super) const CANCEL: u8 = b'c';
/// Asks the task to stop because it was revoked.
pub(super) const REVOKE: u8 = b'r';

/// The lengths of head and body.
const LENGTHS: usize = 16;

/// The call. Its body is the body of the message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct IsolatedCall {
    pub(super) task: String,
    pub(super) id: String,
    pub(super) queue: String,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) redelivered: bool,
    pub(super) headers: Headers,
    pub(super) properties: Properties,
    /// In bytes.
    pub(super) memory_limit: Option<u64>,
    pub(super) result_types: ResultTypes,
    /// Its trace context in the worker.
    pub(super) trace: Headers,
}

impl IsolatedCall {
    pub(super) fn of(context: &Context, memory_limit: Option<u64>) -> Self {
        let mut trace = Headers::default();
        continue_in(&mut trace);
        Self {
            task: context.task().into(),
            id: context.id().into(),
            queue: context.queue().into(),
            exchange: context.exchange().into(),
            routing_key: context.routing_key().into(),
            redelivered: context.is_redelivered(),
            headers: context.headers().clone(),
            properties: context.properties().clone(),
            memory_limit,
            result_types: context.result_types(),
            trace,
        }
    }
}

/// A reply. Its body is what the task returned.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The process is ready, and from now on ignores signals that ask it to exit. Another reply follows.
    Begun,
    /// The task has set this state, with details in the body. Another reply follows.
    State(String),
    /// The task has sent these calls. Another reply follows.
    Sent(Vec<String>),
    /// It cannot run the task because the system is temporarily out of some resource.
    NotStarted(String),
    /// It cannot run the task, for another reason.
    Crashed(String),
    Returned,
    Erred(TaskError),
    Panicked(Panic),
}

impl Reply {
    pub(super) fn of(ended: Ended) -> (Self, Vec<u8>) {
        match ended {
            Ended::Returned(json) => (Reply::Returned, json),
            Ended::Erred(error) => (Reply::Erred(error), Vec::new()),
            Ended::Panicked(panic) => (Reply::Panicked(panic), Vec::new()),
            // Only the worker knows of limits and shutdowns.
            _ => (
                Reply::Panicked(Panic::from("its process cannot report how it ended".to_owned())),
                Vec::new(),
            ),
        }
    }

    pub(super) fn into_ended(self, body: Vec<u8>) -> Ended {
        match self {
            Reply::Begun | Reply::State(_) | Reply::Sent(_) => unreachable!("another answer follows"),
            Reply::NotStarted(problem) => Ended::NotStarted(problem),
            Reply::Crashed(problem) => Ended::Crashed(problem),
            Reply::Returned => Ended::Returned(body),
            Reply::Erred(error) => Ended::Erred(error),
            Reply::Panicked(panic) => Ended::Panicked(panic),
        }
    }
}

/// Encodes head and body.
pub(super) fn frame<T: Serialize>(head: &T, body: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let mut frame = Vec::with_capacity(LENGTHS + head.len() + body.len());
    for length in [head.len(), body.len()] {
        frame.extend_from_slice(&(length as u64).to_le_bytes());
    }
    frame.extend_from_slice(&head);
    frame.extend_from_slice(body);
    Ok(frame)
}

/// Splits a frame that [`read`] or [`receive`] collected.
fn parse<T: DeserializeOwned>(lengths: [u64; 2], mut rest: Vec<u8>) -> io::Result<(T, Vec<u8>)> {
    // A side that died in the middle of a frame leaves it incomplete.
    if rest.len() as u64 != lengths[0].saturating_add(lengths[1]) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let at = usize::try_from(lengths[0]).map_err(io::Error::other)?;
    let body = rest.split_off(at);
    Ok((serde_json::from_slice(&rest)?, body))
}

fn lengths(bytes: [u8; LENGTHS]) -> [u64; 2] {
    let (head, body) = bytes.split_at(LENGTHS / 2);
    [head, body].map(|bytes| u64::from_le_bytes(bytes.try_into().expect("half of the lengths")))
}

/// Reads a frame in the worker. Memory grows with the bytes received, not with the announced length.
pub(super) async fn receive<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<(T, Vec<u8>)> {
    let mut head = [0; LENGTHS];
    from.read_exact(&mut head).await?;
    let lengths = lengths(head);
    let mut rest = Vec::new();
    from.take(lengths[0].saturating_add(lengths[1])).read_to_end(&mut rest).await?;
    parse(lengths, rest)
}

/// Reads a frame in the child.
pub(super) fn read<T: DeserializeOwned>(mut from: impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut head = [0; LENGTHS];
    from.read_exact(&mut head)?;
    let lengths = lengths(head);
    let mut rest = Vec::new();
    from.take(lengths[0].saturating_add(lengths[1])).read_to_end(&mut rest)?;
    parse(lengths, rest)
}

/// Sends a reply from the child.
pub(super) fn write<T: Serialize>(mut to: impl Write, head: &T, body: &[u8]) -> io::Result<()> {
    to.write_all(&frame(head, body)?)
}
