//! The worker: takes messages, runs their tasks, and settles them.
//!
//! A delivery passes through three stages: `admission` decodes it and checks whether it may run, `execution` runs it, and
//! `settlement` decides on the outcome and carries it out. A stage imports only from earlier ones. `pipe` connects them, and
//! `worker` supplies what they need. `control` and `health` run beside the pipe.

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
