//! Looking through dead-letter queues: what failed for good.
//!
//! Messages are taken and held while we look, and go back at the end in the order in which they came. Should we die in
//! between, the broker puts them back.

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
