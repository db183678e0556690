//! Time limits, isolated tasks, and how workers with such tasks stop. The workers are real processes, both those that are
//! killed here and those that their tasks kill.
#![cfg(unix)]

mod lab;
mod limits;
mod log_spans;
mod observing;
mod own_process;
mod stopping;
mod tasks;
mod traces;
