//! The macros of `tracing`, with panics caught: a program may install its own subscriber, and if that one panics, the
//! code that logs carries on. `use crate::tracing;` puts them in place of the crate's.

use std::future::poll_fn;
use std::pin::pin;

use crate::panics::caught;

macro_rules! debug_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::debug!($($event)+)); }};
}
macro_rules! info_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::info!($($event)+)); }};
}
macro_rules! warn_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::warn!($($event)+)); }};
}
macro_rules! error_ {
    ($($event:tt)+) => {{ let _ = $crate::panics::caught(|| ::tracing::error!($($event)+)); }};
}

pub(crate) use {debug_ as debug, error_ as error, info_ as info, warn_ as warn};

/// A span that is entered repeatedly, with panics caught as well.
pub(crate) struct Span(::tracing::Span);

impl Span {
    /// Creates a span with `make`; if that panics, the span is disabled.
    pub(crate) fn new(make: impl FnOnce() -> ::tracing::Span) -> Self {
        Self(caught(make).unwrap_or_else(|_| ::tracing::Span::none()))
    }

    /// Runs code inside the span. `run` must not panic: that would leave the span open on this thread.
    pub(crate) fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        if self.0.is_disabled() {
            return run();
        }
        let entered = caught(|| self.0.enter());
        let value = run();
        let _ = caught(|| drop(entered));
        value
    }

    /// Polls a future inside the span.
    pub(crate) async fn around<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|cx| self.enter(|| future.as_mut().poll(cx))).await
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let _ = caught(|| drop(std::mem::replace(&mut self.0, ::tracing::Span::none())));
    }
}
