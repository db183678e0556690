//! Schedules on every broker: each due time is sent once, whoever leads, and what is changed at run time counts for all.

mod calls;
mod celery;
mod changes;
mod cost;
mod lab;
mod once;
