//! No result backend, for programs that never ask for results.

use futures_util::future::BoxFuture;

use super::{Awaited, ResultBackend, ResultRecord};
use crate::error::{Error, Result};

/// Stores nothing. Asking for a result is an error.
pub(super) struct NoBackend;

fn unsupported(id: &str) -> Error {
    Error::unsupported(format!(
        "cannot get the result of task `{id}`: the result backend is `none:`, which keeps no results"
    ))
}

impl ResultBackend for NoBackend {
    fn expect<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<Option<String>>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    fn release(&self, _id: &str) {}

    fn store<'a>(&'a self, _record: &'a ResultRecord, _to: Option<&'a str>) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<ResultRecord>>> {
        Box::pin(std::future::ready(Err(unsupported(id))))
    }

    fn wait<'a>(&'a self, id: &'a str, _awaited: Awaited) -> BoxFuture<'a, Result<ResultRecord>> {
        Box::pin(std::future::ready(Err(unsupported(id))))
    }

    fn forget<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
