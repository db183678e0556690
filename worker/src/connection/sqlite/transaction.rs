//! One transaction: all jobs that have arrived and all other work that is due, then the commit, then the answers.

use super::bell;
use super::engine::{Changes, Engine, Sql, Synchronous, now_ms};
use super::failure::describe;
use super::job::{Access, Order};
use crate::tracing;

/// The orders of a failed transaction, and its error.
pub(super) struct Refused {
    pub(super) cause: rusqlite::Error,
    pub(super) orders: Vec<Order>,
}

impl Engine {
    /// Runs all of `orders` and everything else that is due in one transaction, and answers after the commit.
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
        // Before the orders, so that verdicts given before a close count.
        self.settle_verdicts(changes)?;
        orders.iter_mut().try_for_each(|order| order.run(self, now, changes))?;
        self.sweep(now)?;
        self.pass_due(now, changes)?;
        self.claim_for_consumers(changes)?;
        self.next_due = self.find_next_due()?;
        self.run("COMMIT")
    }

    /// Publishes the effects of a committed transaction.
    fn apply(&mut self, orders: Vec<Order>, changes: Changes) {
        if changes.rings {
            bell::ring(&self.path);
        }
        if changes.beat {
            self.lease.beat_is_committed();
        }
        if changes.left {
            self.lease.forget();
        }
        self.verdicts.clear();
        self.may_claim = false;
        self.apply_claims(&changes.settled, changes.claims);
        if !changes.begun.is_empty() {
            self.consumers.extend(changes.begun);
            self.may_claim = true;
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
            self.waiters.answer(&stored);
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

    /// Answers without a transaction, so that it need not wait for another process's lock.
    pub(super) fn read(&mut self, mut order: Order) {
        match order.run(self, now_ms(), &mut Changes::default()) {
            Ok(()) => order.answer(self),
            Err(cause) => order.fail(|act| describe(&self.path, act, cause)),
        }
    }

    /// Drops cached state that another process may have changed, at the start of a transaction.
    fn notice_others(&mut self) -> Sql<()> {
        let version = self.data_version()?;
        if version != self.seen_version {
            self.seen_version = version;
            self.lengths.clear();
            self.queues.suspect();
        }
        self.refresh_queues()
    }

    fn set_synchronous(&mut self, wanted: Synchronous) -> Sql<()> {
        if self.synchronous != wanted {
            let value = if wanted == Synchronous::Full { "FULL" } else { "NORMAL" };
            self.db.pragma_update(None, "synchronous", value)?;
            self.synchronous = wanted;
        }
        Ok(())
    }
}
