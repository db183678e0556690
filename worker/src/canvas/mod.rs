//! Calls as values: a task with its arguments and options, not yet sent.

pub mod signature;

pub use signature::{SendOptions, Signature};
