//! Tests that spend most of their time waiting: one program, so that it is linked once and its tests run concurrently.
//!
//! All tasks of these modules share one registry, so each needs a unique name. Tests of things that affect every worker of a
//! program belong in `apart.rs`, and those that need the whole machine in `alone.rs`.

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
