//! Tests with something that every worker of their program gets: set-up functions, broadcasts, isolated tasks.

mod isolate;
mod patterns;
