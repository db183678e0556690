//! Locking without poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose holder never panics halfway: what it guards is whole even if it is poisoned.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
