//! Streams of the states, progress and results of calls.

use std::borrow::Borrow;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use super::info::JobInfo;
use super::result::AsyncResult;
use crate::backend::Awaited;
use crate::error::Result;
use crate::message::Progress;

/// A stream of updates about one or several calls, as they happen. It ends by itself.
///
/// It is a [`Stream`]; [`next`](Self::next) needs no further crate.
#[must_use = "nothing is awaited until `.next()`"]
pub struct Updates<'a, T>(BoxStream<'a, Result<T>>);

impl<'a, T> Updates<'a, T> {
    pub(super) fn new(stream: impl Stream<Item = Result<T>> + Send + 'a) -> Self {
        Self(stream.boxed())
    }

    /// The next update; `None` after the last.
    pub async fn next(&mut self) -> Option<Result<T>> {
        self.0.next().await
    }
}

impl<T> Stream for Updates<'_, T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

impl<T> std::fmt::Debug for Updates<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Updates")
    }
}

impl<T> AsyncResult<T> {
    /// Streams the states of the call, from the current one (or the first, if there is none yet) to the final one. Of several
    /// in quick succession, only the last is seen. Nothing is polled.
    ///
    /// It fails when the backend cannot be reached, or the result is ignored.
    pub fn updates(&self) -> Updates<'_, JobInfo>
    where
        T: 'static,
    {
        updates(self)
    }

    /// The same as a stream that owns the handle, for a response that outlives the function that starts it:
    ///
    /// ```
    /// # use futures_util::Stream;
    /// # use mq_worker::{App, JobInfo, Result};
    /// /// What a web server sends to a browser.
    /// async fn follow(app: App, id: String) -> Result<impl Stream<Item = Result<JobInfo>> + 'static> {
    ///     Ok(app.result::<u64>(id).await?.into_updates())
    /// }
    /// ```
    ///
    /// It fails when the backend cannot be reached, or the result is ignored.
    pub fn into_updates(self) -> Updates<'static, JobInfo>
    where
        T: 'static,
    {
        updates(self)
    }

    /// Streams the call's progress whenever it [reports](crate::Context::progress) it, until the call ends.
    ///
    /// ```no_run
    /// # async fn demo(job: mq_worker::AsyncResult<u64>) -> mq_worker::Result<()> {
    /// let mut progress = job.progress();
    /// while let Some(progress) = progress.next().await {
    ///     let progress = progress?;
    ///     println!("{} of {}: {}", progress.current, progress.total, progress.description);
    /// }
    /// println!("{}", job.get().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It fails when the backend cannot be reached, or the result is ignored.
    pub fn progress(&self) -> Updates<'_, Progress>
    where
        T: 'static,
    {
        let progress = self.updates().filter_map(async |update| match update {
            Ok(info) => info.progress().map(Ok),
            Err(error) => Some(Err(error)),
        });
        Updates::new(progress)
    }
}

/// The states of a call, one after the other.
fn updates<'a, T: 'static>(job: impl Borrow<AsyncResult<T>> + Send + 'a) -> Updates<'a, JobInfo> {
    let begin = Some((job, None));
    Updates::new(stream::try_unfold(begin, async |following| {
        let Some((job, seen)) = following else { return Ok(None) };
        let handle: &AsyncResult<T> = job.borrow();
        let record = handle.backend()?.wait(handle.id(), Awaited::Change(seen)).await?;
        let next = (!record.state.is_ready()).then(|| (job, Some(record.mark())));
        Ok(Some((JobInfo::new(record), next)))
    }))
}
