//! Events: what workers and producers report while they work, in Celery's form.
//!
//! [`Event`] is the data, [`Emitter`] sends it, [`EventStream`] reads it. It is all messages on the topic exchange
//! `celeryev`, so that it works on every broker, and `celery events`, Flower and this crate read each other's.
//!
//! Observing never gets in the way of working: an emitter has a bounded buffer and never waits. What does not fit, or
//! cannot be sent, is dropped and counted.

mod emitter;
mod event;
pub mod exchange;
mod kind;
mod repr;
mod stream;

pub(crate) use emitter::KEPT;
pub use emitter::{Emitter, Sending};
pub use event::Event;
pub use exchange::EventReader;
pub use kind::EventKind;
pub use repr::{Arguments, MAX_TEXT, arguments, text};
pub use stream::{Batch, EventStream};
