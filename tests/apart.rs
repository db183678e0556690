//! Tests of things that affect every worker of their program: set-up functions, broadcasts, isolated tasks, schedules.

mod isolate;
mod patterns;
mod schedules;
