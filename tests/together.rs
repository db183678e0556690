//! The tests that wait most of the time: one program, so that it is linked once and its tests wait side by side.
//!
//! All tasks of these modules are in one registry: each needs a name of its own. What every worker of a program gets
//! belongs to `apart.rs`, and what needs the whole machine to `alone.rs`.

mod backends;
mod brokers;
mod celery_control;
mod celery_interop;
mod celery_samples;
mod codec;
mod control;
mod dashboard;
mod events;
mod examples;
mod fleet;
mod flower;
mod health;
mod history;
mod hostile;
mod layering;
mod pausing;
mod pika;
mod prefetch;
mod promises;
mod rabbitmq;
mod results;
mod routing;
mod stores;
mod support;
mod worker;
