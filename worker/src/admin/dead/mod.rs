//! Searching dead-letter queues: the messages that failed permanently.
//!
//! A search takes messages and holds them, and requeues them at the end in the order in which they came. If the process
//! dies in between, the broker requeues them.

pub(crate) mod discard;
mod kind;
pub(crate) mod letter;
#[cfg(feature = "dashboard")]
mod look;
pub(crate) mod replay;
pub(crate) mod search;
#[cfg(feature = "dashboard")]
pub(crate) mod survey;

#[cfg(test)]
mod tests;
