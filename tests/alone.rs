//! Tests that load the machine or measure their own process: they take turns. Anything that runs at the same time has the
//! lowest priority.

mod allocations;
mod faults;
mod work_queue;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Reserves the machine for one test of this program until the guard is dropped.
fn alone() -> RwLockWriteGuard<'static, ()> {
    // A poisoned lock only means that an earlier test failed.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the machine with other tests until the guard is dropped.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
