//! Settles a delivery after its run: `outcome` decides what follows, `settle` carries it out and documents the order.

pub(crate) mod backend_away;
pub(crate) mod continuation;
pub(crate) mod copy;
pub(crate) mod counters;
pub(crate) mod dropped_calls;
pub(crate) mod effect;
pub(crate) mod failure_hooks;
pub(crate) mod letter_counts;
pub(crate) mod outcome;
pub(crate) mod overlap;
pub(crate) mod persist;
pub(crate) mod registers;
pub(crate) mod reply;
pub(crate) mod reporting;
pub(crate) mod requeue;
pub(crate) mod results;
pub(crate) mod settle;
pub(crate) mod settler;
pub(crate) mod trimmed_copy;
