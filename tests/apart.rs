//! Tests with something that every worker of their program gets: set-up functions, broadcasts, isolated tasks, schedules.

mod isolate;
mod patterns;
mod schedules;
