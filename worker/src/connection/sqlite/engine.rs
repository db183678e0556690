//! One transaction at a time, and what is known between two.

use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use notify::RecommendedWatcher;
use rusqlite::{Connection, OptionalExtension};

use super::bell;
use super::claim::{Claim, Claimed, Ending};
use super::consumer::Consumer;
use super::failure::describe;
use super::job::{Access, Order};
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

/// How often we look whether another process has committed, in case the bell was not heard, and whether the file is
/// still there.
const LOOK: Duration = Duration::from_millis(500);
/// The same where there is no bell at all: a look costs some microseconds.
const LOOK_WITHOUT_BELL: Duration = Duration::from_millis(5);
/// How often results that have expired are deleted.
const SWEEP: Duration = Duration::from_secs(30);

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
    seen_version: i64,
    /// The same at the last [`look`](Self::look).
    looked_version: i64,
    next_look: Instant,
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
    next_sweep: Instant,
    synchronous: Synchronous,
    bell: Bell,
}

enum Bell {
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

/// Orders that were not done, and why.
pub(super) struct Refused {
    pub(super) cause: rusqlite::Error,
    pub(super) orders: Vec<Order>,
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

    /// Does all of `orders`, and whatever else is due, in one transaction; answers after the commit.
    pub(super) fn transact(&mut self, mut orders: Vec<Order>) -> Result<(), Refused> {
        let mut changes = Changes::default();
        if let Err(cause) = self.attempt(&mut orders, &mut changes) {
            self.undo(&changes);
            return Err(Refused { cause, orders });
        }
        match self.presence.check(&self.db) {
            Ok(()) => self.apply(orders, changes),
            Err(absence) => {
                self.undo(&changes);
                for order in orders {
                    order.fail(|act| absence.error_after_commit(&self.path, act));
                }
            }
        }
        Ok(())
    }

    fn attempt(&mut self, orders: &mut [Order], changes: &mut Changes) -> Sql<()> {
        let durable = Access::Write(Synchronous::Full);
        let is_durable = orders.iter().any(|order| order.terms.access == durable);
        self.set_synchronous(if is_durable { Synchronous::Full } else { Synchronous::Normal })?;
        self.run("BEGIN IMMEDIATE")?;
        let now = now_ms();
        self.notice_others()?;
        self.keep_lease(now, changes)?;
        // First of all: who settles and then closes has settled.
        self.settle_verdicts(changes)?;
        orders.iter_mut().try_for_each(|order| order.run(self, now, changes))?;
        self.sweep(now)?;
        self.pass_due(now, changes)?;
        self.claim_for_consumers(changes)?;
        self.next_due = self.find_next_due()?;
        self.run("COMMIT")
    }

    /// The transaction is durable: what it did becomes known.
    fn apply(&mut self, orders: Vec<Order>, changes: Changes) {
        if changes.rings {
            bell::ring(&self.path);
        }
        if changes.beat {
            self.lease.has_beaten();
        }
        if changes.left {
            self.lease.forget();
        }
        self.verdicts.clear();
        self.is_hungry = false;
        self.apply_claims(&changes.settled, changes.claims);
        if !changes.begun.is_empty() {
            self.consumers.extend(changes.begun);
            self.is_hungry = true;
            self.listen();
        }
        self.move_consumers(changes.moved);
        for order in orders {
            order.answer(self);
        }
        for id in changes.retired {
            self.consumers.retain(|consumer| consumer.id != id);
        }
        self.hand_out(changes.handed);
        for stored in changes.stored {
            self.waiters.tell(&stored);
        }
    }

    pub(super) fn undo(&mut self, changes: &Changes) {
        if !self.db.is_autocommit()
            && let Err(error) = self.run("ROLLBACK")
        {
            tracing::error!(%error, path = %self.path.display(), "cannot roll back");
        }
        self.queues.forget();
        self.lengths.clear();
        self.lease.undo(changes.joined);
    }

    /// Answers without a transaction, so that another process's lock does not matter.
    pub(super) fn read(&mut self, mut order: Order) {
        match order.run(self, now_ms(), &mut Changes::default()) {
            Ok(()) => order.answer(self),
            Err(cause) => order.fail(|act| describe(&self.path, act, cause)),
        }
    }

    /// True when there is something to write that no job asks for.
    pub(super) fn has_chores(&self) -> bool {
        let is_due = self.next_due.is_some_and(|due| due <= now_ms());
        !self.verdicts.is_empty() || self.is_hungry || is_due || self.lease.is_beat_due()
    }

    /// How long the thread may sleep when nothing arrives.
    pub(super) fn patience(&self) -> Duration {
        if self.has_chores() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut patience = Duration::from_secs(60);
        if self.has_listeners() {
            patience = patience.min(self.next_look.saturating_duration_since(now));
        }
        if let Some(beat) = self.lease.next_beat() {
            patience = patience.min(beat.saturating_duration_since(now));
        }
        if let Some(due) = self.next_due {
            patience = patience.min(Duration::from_millis(u64::try_from(due - now_ms()).unwrap_or(0)));
        }
        patience
    }

    pub(super) fn has_listeners(&self) -> bool {
        !self.consumers.is_empty() || !self.waiters.is_empty()
    }

    /// Looks for what other processes have done, when they rang or when it is time.
    pub(super) fn look(&mut self, was_rung: bool) -> Sql<()> {
        let now = Instant::now();
        if !was_rung && (now < self.next_look || !self.has_listeners()) {
            return Ok(());
        }
        self.next_look = now + if matches!(self.bell, Bell::Broken) { LOOK_WITHOUT_BELL } else { LOOK };
        self.waiters.forget_gone();
        if self.consumers.iter().any(Consumer::is_closed) {
            self.is_hungry = true;
        }
        let version = self.data_version()?;
        if version == self.looked_version {
            return Ok(());
        }
        self.looked_version = version;
        self.next_due = self.find_next_due()?;
        self.is_hungry = self.is_hungry || self.could_claim()?;
        self.read_news()
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

    /// Forgets what another process may have changed, at the beginning of a transaction.
    fn notice_others(&mut self) -> Sql<()> {
        let version = self.data_version()?;
        if version != self.seen_version {
            self.seen_version = version;
            self.lengths.clear();
            self.queues.suspect();
        }
        self.refresh_queues()
    }

    fn data_version(&self) -> Sql<i64> {
        self.db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    fn set_synchronous(&mut self, wanted: Synchronous) -> Sql<()> {
        if self.synchronous != wanted {
            let value = if wanted == Synchronous::Full { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", value)?;
            self.synchronous = wanted;
        }
        Ok(())
    }

    /// Deletes expired rows, a few at a time.
    fn sweep(&mut self, now: i64) -> Sql<()> {
        let clock = Instant::now();
        if clock < self.next_sweep {
            return Ok(());
        }
        self.next_sweep = clock + SWEEP;
        let deleted = self.sweep_results(now)? + self.sweep_memos(now)?;
        if deleted > 0 {
            // There may be more; the next transaction goes on.
            self.next_sweep = clock;
        }
        Ok(())
    }

    pub(super) fn run(&self, sql: &str) -> Sql<()> {
        self.db.prepare_cached(sql)?.execute([]).map(drop)
    }

    /// The earliest time at which a delayed message can be handed out, a message expires, or a queue does.
    fn find_next_due(&self) -> Sql<Option<i64>> {
        let first = |sql: &str| -> Sql<Option<i64>> {
            self.db.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()
        };
        let delayed = first("SELECT at FROM delayed ORDER BY at LIMIT 1")?;
        let expiring = first("SELECT at FROM expiring ORDER BY at LIMIT 1")?;
        Ok([delayed, expiring, self.next_queue_expiry()?].into_iter().flatten().min())
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
