//! A build without the feature `otel`.

use std::time::Duration;

use crate::canvas::SendOptions;
use crate::error::{Error, TaskFailure};
use crate::message::Headers;
use crate::task::Context;

/// No span of a call on its way to the broker.
pub(crate) struct SendTrace;

impl SendTrace {
    pub(crate) fn begin(_: &str, _: &mut SendOptions) -> Self {
        Self
    }

    pub(crate) fn end(self, _: Result<(), &Error>) {}
}

/// No span of a call in a worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallTrace {}

impl CallTrace {
    pub(crate) fn begin(_: &Context, _: impl FnOnce() -> Option<Duration>) -> Self {
        Self {}
    }

    pub(crate) fn is_on(&self) -> bool {
        false
    }

    pub(crate) fn step(&self, _: &'static str) -> Step {
        Step
    }

    pub(crate) fn end(&self, _: &'static str, _: Option<&TaskFailure>) {}
}

/// No span of a part of a call.
#[derive(Clone, Debug)]
pub(crate) struct Step;

impl Step {
    #[cfg(unix)]
    pub(crate) fn of(_: &Headers) -> Self {
        Self
    }

    pub(crate) fn enter<T>(&self, run: impl FnOnce() -> T) -> T {
        run()
    }

    pub(crate) fn around<T>(&self, future: impl Future<Output = T>) -> impl Future<Output = T> {
        future
    }
}

pub(crate) fn continue_in(_: &mut Headers) {}

#[cfg(unix)]
pub(crate) async fn flush() {}
