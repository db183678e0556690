//! Time limits, tasks in processes of their own, and how workers with such tasks stop. The workers are real processes:
//! those that are killed here, and those that their tasks take down.
#![cfg(unix)]

mod lab;
mod limits;
mod log_spans;
mod observing;
mod own_process;
mod stopping;
mod tasks;
mod traces;
