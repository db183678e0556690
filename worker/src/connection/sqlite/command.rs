//! What the thread can be asked, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::Result;
use crate::message::Message;
use crate::routing::topology::DeleteGuard;
use crate::routing::{Binding, Exchange, Topology};

/// What arrives in the thread's inbox.
pub(super) enum Command {
    /// Somebody waits for an answer.
    Call(Call),
    /// A claim ends. Nobody waits; the thread tries until it is written.
    Settle { tag: u64, ending: Ending },
    /// Another process has rung the bell.
    Changed,
}

/// How a claim ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The message leaves.
    Done,
    /// The message goes back to its place.
    Back,
    /// The message goes where the dead letters of its queue go.
    Rejected,
    /// The message goes back after a pause, with one crash more.
    Lost { pause: Duration },
}

/// A request with the way back.
pub(super) struct Call {
    pub(super) request: Request,
    /// Until when it may be begun. `None`: the caller sets the time-out.
    pub(super) deadline: Option<Instant>,
    pub(super) reply: oneshot::Sender<Result<Answer>>,
}

/// One request.
pub(crate) enum Request {
    /// Opens the file, if that has not been done.
    Open,
    Publish(Publishing),
    Declare {
        client: u64,
        topology: Topology,
    },
    Consume(Consuming),
    Cancel {
        consumer: u64,
    },
    /// Answers when everything that came before it is written.
    Flush,
    Get {
        client: u64,
        queue: String,
    },
    /// How full the queues are; no names are all.
    Count {
        names: Vec<String>,
    },
    Purge {
        queue: String,
    },
    Delete {
        queue: String,
    },
    /// Deletes a queue if the guard allows it, and answers how many messages went with it.
    DeleteIf {
        client: u64,
        queue: String,
        guard: DeleteGuard,
    },
    /// The exchanges of these names; no names are all.
    Exchanges {
        names: Vec<String>,
    },
    DeleteExchange {
        name: String,
        guard: DeleteGuard,
    },
    /// All bindings.
    Bindings,
    Unbind {
        binding: Binding,
    },
    /// How long the message that goes out next has waited.
    Oldest {
        queue: String,
    },
    Store(Storing),
    Fetch {
        task_id: String,
    },
    /// Answers when the record is final.
    Wait {
        task_id: String,
    },
    /// Notes an id.
    Note {
        register: &'static str,
        noted: Noted,
    },
    /// What was noted after a number.
    Notes {
        register: &'static str,
        after: u64,
    },
    IsNoted {
        register: &'static str,
        id: String,
    },
    /// Takes a lock, or answers who has it.
    Lock {
        key: String,
        holder: String,
        lifetime: Duration,
    },
    Unlock {
        key: String,
        holder: String,
    },
    /// Ends everything that a client of this file has begun.
    Close {
        client: u64,
    },
}

impl Request {
    /// What is tried, for an error.
    pub(super) fn act(&self) -> &'static str {
        match self {
            Request::Open => "open the database",
            Request::Publish(_) => "publish",
            Request::Declare { .. } => "declare the topology",
            Request::Consume(_) => "consume",
            Request::Cancel { .. } => "cancel a consumer",
            Request::Flush => "write acknowledgements",
            Request::Get { .. } => "get a message",
            Request::Count { .. } => "count messages",
            Request::Purge { .. } => "purge a queue",
            Request::Delete { .. } | Request::DeleteIf { .. } => "delete a queue",
            Request::Exchanges { .. } => "list exchanges",
            Request::DeleteExchange { .. } => "delete an exchange",
            Request::Bindings => "list bindings",
            Request::Unbind { .. } => "remove a binding",
            Request::Oldest { .. } => "read a queue",
            Request::Store(_) => "store a result",
            Request::Fetch { .. } => "fetch a result",
            Request::Wait { .. } => "wait for a result",
            Request::Note { .. } => "note a task",
            Request::Notes { .. } | Request::IsNoted { .. } => "read notes on tasks",
            Request::Lock { .. } => "take a lock",
            Request::Unlock { .. } => "open a lock",
            Request::Close { .. } => "close",
        }
    }

    /// True when it needs no transaction of its own: it can be answered while another process writes.
    pub(super) fn is_read(&self) -> bool {
        matches!(
            self,
            Request::Count { .. }
                | Request::Exchanges { .. }
                | Request::Bindings
                | Request::Oldest { .. }
                | Request::Fetch { .. }
                | Request::Wait { .. }
                | Request::Notes { .. }
                | Request::IsNoted { .. }
        )
    }

    /// True when a caller is told that something is safe: the disk has to have it.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            Request::Publish(_)
            | Request::Declare { .. }
            | Request::Purge { .. }
            | Request::Delete { .. }
            | Request::DeleteIf { .. }
            | Request::DeleteExchange { .. }
            | Request::Unbind { .. }
            | Request::Note { .. }
            | Request::Lock { .. }
            | Request::Unlock { .. } => true,
            Request::Store(storing) => storing.is_final,
            _ => false,
        }
    }

    /// True when there is no point in doing it for a caller who has gone.
    pub(super) fn is_for_caller(&self) -> bool {
        !matches!(self, Request::Cancel { .. } | Request::Close { .. })
    }
}

/// A message to publish, encoded by the caller so that the thread need not.
pub(crate) struct Publishing {
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) head: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) priority: u8,
    pub(crate) expiration: Option<Duration>,
    pub(crate) delay: Option<Duration>,
    pub(crate) mandatory: bool,
}

/// A consumer to begin.
pub(crate) struct Consuming {
    pub(crate) client: u64,
    pub(crate) consumer: u64,
    pub(crate) queues: Vec<String>,
    pub(crate) prefetch: usize,
    pub(crate) name: String,
    pub(crate) sink: Sink,
}

/// Where a consumer's messages go. Called on the thread; must not block.
pub(crate) struct Sink {
    /// False when nobody took the message: it goes back.
    pub(crate) hand_out: Box<dyn Fn(Claimed) -> bool + Send>,
    /// True when nobody takes messages any more.
    pub(crate) is_closed: Box<dyn Fn() -> bool + Send>,
}

/// A result to store.
pub(crate) struct Storing {
    pub(crate) task_id: String,
    pub(crate) record: Vec<u8>,
    /// A final record is never overwritten.
    pub(crate) is_final: bool,
    pub(crate) expires: Option<Duration>,
}

/// A message that was handed out.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Names the claim in [`Command::Settle`].
    pub(crate) tag: u64,
    pub(crate) message: Message,
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) crashes: u32,
}

/// What is noted of an id.
#[derive(Debug)]
pub(crate) struct Noted {
    pub(crate) id: String,
    /// In milliseconds since 1970.
    pub(crate) until: i64,
    pub(crate) by_force: bool,
}

/// How full a queue is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) queue: String,
    pub(crate) ready: u64,
    pub(crate) running: u64,
    pub(crate) delayed: u64,
    pub(crate) consumers: u64,
}

/// One answer; each request has one kind of it.
#[derive(Debug)]
pub(crate) enum Answer {
    Done,
    Number(u64),
    Claimed(Option<Box<Claimed>>),
    Counts(Vec<Count>),
    Exchanges(Vec<Exchange>),
    Bindings(Vec<Binding>),
    Age(Option<Duration>),
    Record(Option<Vec<u8>>),
    /// What was noted, and the number to go on from.
    Notes(Vec<Noted>, u64),
    Flag(bool),
    /// Who has a lock.
    Holder(Option<String>),
}
