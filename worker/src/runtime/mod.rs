//! The worker: takes messages, runs their tasks, and settles them.
//!
//! A delivery goes through a straight pipe: [`request`] decodes and admits it, [`executor`] runs it,
//! [`outcome`] decides what follows, [`settle`] does it. `pipe` holds them together; [`worker`] brings along what they
//! need.

mod again;
mod comeback;
pub mod continuation;
mod control;
mod dropped;
mod effect;
pub mod executor;
pub mod failure_hooks;
pub mod handle;
mod health;
pub mod isolate;
mod noted;
pub mod outcome;
pub mod persist;
mod pipe;
pub mod places;
pub mod quarantine;
pub mod request;
pub mod revoked;
pub mod running;
pub mod settle;
mod smaller;
mod start;
mod step;
mod tally;
mod told;
pub mod worker;

pub use handle::WorkerHandle;
pub use tally::Summary;
pub use worker::Worker;
