//! Calls as values: a task with its arguments and options that has not been sent yet.

pub mod signature;

pub use signature::{SendOptions, Signature};
