//! Tests that load the machine or measure their own process: they take turns. What runs at the same time has the lowest
//! priority.

mod allocations;
mod faults;
mod work_queue;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// The machine for one test of this program alone, until the guard is dropped.
fn alone() -> RwLockWriteGuard<'static, ()> {
    // A test that failed before says nothing about this one.
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// The machine for one test beside others that share it too.
fn beside_others() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}
