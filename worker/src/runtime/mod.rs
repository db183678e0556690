//! The worker: takes messages, runs their tasks, and settles them.
//!
//! A delivery passes three rooms: `admission` decodes it and checks whether it may run, `execution` runs it,
//! `settlement` decides what follows and does it. A room imports only from those before it. `pipe` holds them together;
//! `worker` brings along what they need. `control` and `health` stand beside the pipe.

pub(crate) mod handle;
pub(crate) mod reporter;
mod sources;
mod startup;
mod waited;

pub(crate) mod admission;
pub(crate) mod execution;
pub(crate) mod metrics;
pub(crate) mod settlement;

mod control;
mod health;
mod heartbeat;
mod prefetch;

mod pipe;
mod worker;

pub use execution::isolate::run_isolated;
pub use handle::WorkerHandle;
pub use settlement::counters::Summary;
pub use worker::Worker;
