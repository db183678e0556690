//! The worker: takes messages, runs their tasks, and settles them.
//!
//! A delivery goes through a straight pipe: [`request`] decodes and admits it, [`executor`] runs it,
//! [`outcome`] decides what follows, [`settle`] does it. [`worker`] holds the pipe together.

pub mod continuation;
mod control;
pub mod executor;
pub mod failure_hooks;
pub mod handle;
mod health;
pub mod isolate;
pub mod outcome;
pub mod places;
pub mod request;
pub mod revoked;
pub mod running;
pub mod settle;
mod start;
pub mod worker;

pub use handle::WorkerHandle;
pub use worker::{Summary, Worker};
