//! Traces: the sending and the run of a call as spans of one OpenTelemetry trace.
//!
//! The context travels in the headers `traceparent` and `tracestate` (W3C), where Python's instrumentation of Celery puts
//! it too. Without the feature `otel`, everything here does nothing.

#[cfg(not(feature = "otel"))]
mod off;
#[cfg(feature = "otel")]
mod on;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(all(test, feature = "otel"))]
mod tests;

#[cfg(not(feature = "otel"))]
pub(crate) use off::{CallTrace, SendTrace, Step, continue_in, flush};
#[cfg(feature = "otel")]
pub use on::enable;
#[cfg(feature = "otel")]
pub(crate) use on::{CallTrace, SendTrace, Step, continue_in};
#[cfg(feature = "otel")]
pub(crate) use otlp::flush;
#[cfg(feature = "otel")]
pub use otlp::{Exporting, start};
