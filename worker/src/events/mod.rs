//! Events: what workers and producers report while they work, in Celery's form.
//!
//! [`Event`] is the data, [`Emitter`] sends it, [`EventStream`] reads it. Events are messages on the topic exchange
//! `celeryev`, so they work on every broker, and `celery events`, Flower and this crate can read each other's.
//!
//! Events never hold up the work: an emitter has a bounded buffer and never waits. Events that do not fit or cannot be
//! sent are dropped and counted.

mod emitter;
mod event;
pub mod exchange;
mod kind;
mod repr;
mod stream;

pub(crate) use emitter::KEPT;
pub use emitter::{Emitter, EventSender};
pub use event::Event;
pub use exchange::EventReader;
pub use kind::EventKind;
pub use repr::{Arguments, MAX_TEXT, arguments, text};
pub use stream::{Batch, EventStream};
