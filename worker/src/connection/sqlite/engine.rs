//! The open file with what is known between two transactions, and what a transaction changes of that.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use notify::RecommendedWatcher;
use rusqlite::Connection;

use super::bell;
use super::claim::{Claim, Claimed, Ending};
use super::consumer::Consumer;
use super::lease::Lease;
use super::presence::Presence;
use super::queue::Queues;
use super::waiters::{Stored, Waiters};
use super::{Database, schema};
use crate::error::Result;
use crate::tracing;

/// What SQLite says. Answers of our own, such as "no such queue", are [`Result`]s inside it: they leave the
/// transaction as it was.
pub(crate) type Sql<T> = rusqlite::Result<T>;

/// The open file.
pub(crate) struct Engine {
    pub(super) path: Arc<Path>,
    /// Shared with the running method, so that a statement can live while the rest of the engine changes.
    pub(super) db: Rc<Connection>,
    pub(super) presence: Presence,
    database: Weak<Database>,
    pub(super) queues: Queues,
    /// How many messages are ready, of queues where that matters. Forgotten when another process has written.
    pub(super) lengths: HashMap<i64, u64>,
    /// `PRAGMA data_version` at the last transaction: changes when another connection commits.
    pub(super) seen_version: i64,
    /// The same when we last looked for what other processes have done.
    pub(super) looked_version: i64,
    pub(super) next_look: Instant,
    pub(super) lease: Lease,
    pub(super) consumers: Vec<Consumer>,
    /// Whose turn it is to be served first.
    pub(super) turn: usize,
    /// What is handed out and not settled, by tag.
    pub(super) claims: HashMap<u64, Claim>,
    /// Verdicts that are not written yet.
    pub(super) verdicts: Vec<(u64, Ending)>,
    pub(super) waiters: Waiters,
    /// True when there may be something to claim that no transaction has looked for yet.
    pub(super) is_hungry: bool,
    /// When the next delayed or expiring message is due, in milliseconds since 1970.
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
    /// Every commit is on the disk before it is answered.
    Full,
    /// A power failure may undo the last commits, all of them from some point on. That is right for claims and
    /// acknowledgements: a lost one is a message handed out twice, never a lost message, and the next full commit
    /// makes them durable too, since there is one log.
    Normal,
}

/// What a transaction has done, for the time after its commit.
#[derive(Default)]
pub(crate) struct Changes {
    /// Claims that ended.
    pub(super) settled: Vec<u64>,
    /// Messages for consumers, by consumer.
    pub(super) handed: Vec<(u64, Claimed)>,
    /// All new claims.
    pub(super) claims: Vec<(u64, Claim)>,
    /// Consumers that began.
    pub(super) begun: Vec<Consumer>,
    /// Consumers that have other queues now.
    pub(super) moved: Vec<(u64, Vec<String>)>,
    /// Consumers that ended.
    pub(super) retired: Vec<u64>,
    /// Results that somebody waits for here.
    pub(super) stored: Vec<Stored>,
    /// This process got a new owner row.
    pub(super) joined: bool,
    /// There is something for other processes.
    pub(super) rings: bool,
    /// The heartbeat was written.
    pub(super) beat: bool,
    /// The owner row was deleted: this process holds nothing any more.
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
            is_hungry: false,
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

/// Milliseconds since 1970: what is written must mean the same to every process and after a restart.
pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A duration in whole milliseconds, rounded up: a message never comes early.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX / 4)
}
