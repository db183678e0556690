//! Schedules on every broker: each due time is sent once, whichever scheduler leads, and changes at run time apply to all.

mod calls;
mod celery;
mod changes;
mod commands;
mod cost;
mod lab;
mod once;
mod order;
