//! The open file with the state in memory, and the changes that a transaction makes to it.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use notify::RecommendedWatcher;
use rusqlite::Connection;

use super::bell;
use super::claim::{Claim, ClaimEnd, Claimed};
use super::consumer::Consumer;
use super::lease::Lease;
use super::presence::Presence;
use super::queue::Queues;
use super::waiters::{Stored, Waiters};
use super::{Database, schema};
use crate::error::Result;
use crate::tracing;

/// A result of SQLite. Errors of our own, such as "no such queue", are [`Result`]s inside it: they do not roll back the
/// transaction.
pub(crate) type Sql<T> = rusqlite::Result<T>;

/// The open file.
pub(crate) struct Engine {
    pub(super) path: Arc<Path>,
    /// Cloned by methods that keep a statement alive while they change the rest of the engine.
    pub(super) db: Rc<Connection>,
    pub(super) presence: Presence,
    database: Weak<Database>,
    pub(super) queues: Queues,
    /// The number of ready messages of queues with a length limit. Cleared when another process has written.
    pub(super) lengths: HashMap<i64, u64>,
    /// `PRAGMA data_version` at the last transaction; it changes when another connection commits.
    pub(super) seen_version: i64,
    /// The same at the last check for changes by other processes.
    pub(super) looked_version: i64,
    pub(super) next_look: Instant,
    pub(super) lease: Lease,
    pub(super) consumers: Vec<Consumer>,
    /// The consumer to serve first, counted up with each transaction.
    pub(super) turn: usize,
    /// Unsettled claims by tag.
    pub(super) claims: HashMap<u64, Claim>,
    /// Verdicts not written yet.
    pub(super) verdicts: Vec<(u64, ClaimEnd)>,
    pub(super) waiters: Waiters,
    /// True if there may be messages to claim that no transaction has looked for yet.
    pub(super) may_claim: bool,
    /// When the next delayed or expiring message or queue is due, in milliseconds since 1970.
    pub(super) next_due: Option<i64>,
    pub(super) next_sweep: Instant,
    pub(super) synchronous: Synchronous,
    pub(super) bell: Bell,
}

pub(super) enum Bell {
    Unwatched,
    Watched(#[allow(dead_code, reason = "listens until it is dropped")] RecommendedWatcher),
    Broken,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Synchronous {
    /// Every commit is on the disk before its callers are answered.
    Full,
    /// A power failure may undo all commits after some point. That is good enough for claims and acks: a lost one means that
    /// a message is delivered twice, never that it is lost. The next full commit makes them durable too, since there is
    /// one log.
    Normal,
}

/// The changes of a transaction, applied to the state in memory after its commit.
#[derive(Default)]
pub(crate) struct Changes {
    /// Claims that ended.
    pub(super) settled: Vec<u64>,
    /// Messages for consumers, by consumer.
    pub(super) handed: Vec<(u64, Claimed)>,
    /// All new claims.
    pub(super) claims: Vec<(u64, Claim)>,
    /// New consumers.
    pub(super) begun: Vec<Consumer>,
    /// Consumers with a new list of queues.
    pub(super) moved: Vec<(u64, Vec<String>)>,
    /// Consumers that ended.
    pub(super) retired: Vec<u64>,
    /// Results that callers in this process wait for.
    pub(super) stored: Vec<Stored>,
    /// True if this process got a new owner row.
    pub(super) joined: bool,
    /// True if there is news for other processes.
    pub(super) rings: bool,
    /// True if the heartbeat was written.
    pub(super) beat: bool,
    /// True if the owner row was deleted: this process no longer holds anything.
    pub(super) left: bool,
}

impl Engine {
    pub(super) fn open(
        path: Arc<Path>,
        named: &Path,
        deadline: Instant,
        database: Weak<Database>,
    ) -> Result<Self> {
        let db = Rc::new(schema::open(&path, deadline)?);
        let presence = Presence::of(Arc::clone(&path), named);
        let now = Instant::now();
        Ok(Self {
            path,
            db,
            presence,
            database,
            queues: Queues::default(),
            lengths: HashMap::new(),
            seen_version: -1,
            looked_version: -1,
            next_look: now,
            lease: Lease::default(),
            consumers: Vec::new(),
            turn: 0,
            claims: HashMap::new(),
            verdicts: Vec::new(),
            waiters: Waiters::default(),
            may_claim: false,
            next_due: None,
            next_sweep: now,
            synchronous: Synchronous::Full,
            bell: Bell::Unwatched,
        })
    }

    pub(super) fn has_listeners(&self) -> bool {
        !self.consumers.is_empty() || !self.waiters.is_empty()
    }

    pub(super) fn listen(&mut self) {
        if !matches!(self.bell, Bell::Unwatched) {
            return;
        }
        self.bell = match bell::listen(&self.path, self.database.clone()) {
            Ok(watcher) => Bell::Watched(watcher),
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "cannot watch the database; polling every 5 ms");
                Bell::Broken
            }
        };
    }

    pub(super) fn data_version(&self) -> Sql<i64> {
        self.db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    pub(super) fn run(&self, sql: &str) -> Sql<()> {
        self.db.prepare_cached(sql)?.execute([]).map(drop)
    }
}

/// The current time in milliseconds since 1970, which means the same to every process and after a restart.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A duration in whole milliseconds, rounded up so that a message is never early.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX / 4)
}
