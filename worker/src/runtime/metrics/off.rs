//! A build without the feature `metrics`: nothing is recorded.

use std::time::Duration;

use super::{Present, StoredAs};
use crate::middleware::OutcomeKind;
use crate::task::Context;

/// Records nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(());

impl Metrics {
    pub(crate) fn new() -> Self {
        Self(())
    }

    pub(crate) fn is_on(&self) -> bool {
        false
    }

    pub(crate) fn started(&self, _: &Context) {}

    pub(crate) fn settled(&self, _: &Context, _: OutcomeKind<'_>, _: Duration, _: Duration) {}

    pub(crate) fn result(&self, _: StoredAs, _: Duration) {}

    pub(crate) fn page(&self, _: impl FnOnce() -> Present) -> Option<String> {
        None
    }
}
