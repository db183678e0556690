//! The handles to several calls.

use std::future::IntoFuture;
use std::ops::Deref;
use std::time::Duration;

use futures_util::future::{BoxFuture, try_join_all};
use futures_util::stream::FuturesUnordered;
use serde::de::DeserializeOwned;

use super::result::{AsyncResult, within};
use super::updates::Updates;
use crate::error::Result;

/// The handles to several calls, in the order in which they were sent: what
/// [`App::send_many`](crate::App::send_many) returns. It derefs to a slice of [`AsyncResult`]s and collects from them.
///
/// ```no_run
/// # async fn demo(one: mq_worker::AsyncResult<u64>, two: mq_worker::AsyncResult<u64>) -> mq_worker::Result<()> {
/// use mq_worker::ResultSet;
///
/// let results: ResultSet<u64> = [one, two].into_iter().collect();
/// let sum: u64 = results.join().await?.into_iter().sum();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResultSet<T>(Vec<AsyncResult<T>>);

impl<T> From<Vec<AsyncResult<T>>> for ResultSet<T> {
    fn from(results: Vec<AsyncResult<T>>) -> Self {
        Self(results)
    }
}

impl<T> FromIterator<AsyncResult<T>> for ResultSet<T> {
    fn from_iter<I: IntoIterator<Item = AsyncResult<T>>>(results: I) -> Self {
        Self(results.into_iter().collect())
    }
}

impl<T> Deref for ResultSet<T> {
    type Target = [AsyncResult<T>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<T> IntoIterator for ResultSet<T> {
    type Item = AsyncResult<T>;
    type IntoIter = std::vec::IntoIter<AsyncResult<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a ResultSet<T> {
    type Item = &'a AsyncResult<T>;
    type IntoIter = std::slice::Iter<'a, AsyncResult<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: DeserializeOwned + Send + 'static> ResultSet<T> {
    /// Waits for all values, in the order of the calls: `results.join().await?`, or with a timeout for all together:
    /// `results.join().timeout(Duration::from_secs(5)).await?`.
    ///
    /// # Errors
    /// The first call that fails, or is revoked, ends the wait.
    pub fn join(&self) -> Join<'_, T> {
        Join { results: self, timeout: None }
    }

    /// Each value or error in the order of completion, with the index of its call.
    pub fn stream(&self) -> Updates<'_, (usize, Result<T>)> {
        let each = self.0.iter().enumerate().map(async |(index, job)| Ok((index, job.get().await)));
        Updates::new(each.collect::<FuturesUnordered<_>>())
    }
}

/// The wait for all values of a [`ResultSet`].
#[derive(Debug)]
#[must_use = "nothing is awaited until `.await`"]
pub struct Join<'a, T> {
    results: &'a ResultSet<T>,
    timeout: Option<Duration>,
}

impl<T> Join<'_, T> {
    /// Stops waiting after this long. The calls continue.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }
}

impl<'a, T: DeserializeOwned + Send + 'static> IntoFuture for Join<'a, T> {
    type Output = Result<Vec<T>>;
    type IntoFuture = BoxFuture<'a, Result<Vec<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let all = || try_join_all(self.results.iter().map(|job| job.get().into_future()));
            let count = self.results.len();
            within(self.timeout, || format!("not all results of {count} tasks came"), all).await
        })
    }
}
