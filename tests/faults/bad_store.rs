//! Result stores that are broken on purpose: the checker must catch them.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use mq_worker::State;
use mq_worker::backend::{Awaited, ResultBackend, ResultRecord};
use tokio::time::sleep;

use crate::mutation::VARIABLE;

/// Wraps the real store in a broken one.
pub(crate) type Wrap = fn(Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend>;

/// How late a state is stored: by then the retry has run.
const LATE: Duration = Duration::from_secs(2);
/// When a result is stored that no caller awaits: by then its worker has exited.
const TOO_LATE: Duration = Duration::from_secs(120);
/// The pause before a late state is stored again.
const AGAIN: Duration = Duration::from_millis(200);

/// How the store is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    /// `RETRY` is stored late and overwrites the current state.
    LateRetry,
    /// A task is acknowledged long before its result is stored.
    Unawaited,
}

const NAMES: [(&str, Mutation); 2] =
    [("late-retry", Mutation::LateRetry), ("unawaited-store", Mutation::Unawaited)];

/// The names of all mutations.
pub(crate) fn names() -> Vec<&'static str> {
    NAMES.iter().map(|(name, _)| *name).collect()
}

fn wanted() -> Option<Mutation> {
    let name = std::env::var(VARIABLE).ok()?;
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, mutation)| *mutation)
}

/// Returns the wrapper if this process is to use a broken store.
pub(crate) fn of_this_process() -> Option<Wrap> {
    wanted().map(|_| wrap as Wrap)
}

fn wrap(inner: Arc<dyn ResultBackend>) -> Arc<dyn ResultBackend> {
    Arc::new(BadStore { inner, mutation: wanted().expect("it was named before") })
}

struct BadStore {
    inner: Arc<dyn ResultBackend>,
    mutation: Mutation,
}

impl ResultBackend for BadStore {
    fn store<'a>(
        &'a self,
        record: &'a ResultRecord,
        reply_to: Option<&'a str>,
    ) -> BoxFuture<'a, mq_worker::Result<()>> {
        let (inner, later) = (Arc::clone(&self.inner), record.clone());
        match self.mutation {
            Mutation::LateRetry if record.state == State::Retry => {
                tokio::spawn(async move {
                    sleep(LATE).await;
                    while inner.forget(&later.task_id).await.is_err()
                        || inner.store(&later, None).await.is_err()
                    {
                        sleep(AGAIN).await;
                    }
                });
            }
            Mutation::Unawaited => {
                tokio::spawn(async move {
                    sleep(TOO_LATE).await;
                    inner.store(&later, None).await
                });
            }
            Mutation::LateRetry => return self.inner.store(record, reply_to),
        }
        Box::pin(async { Ok(()) })
    }

    fn expect<'a>(&'a self, id: &'a str) -> BoxFuture<'a, mq_worker::Result<Option<String>>> {
        self.inner.expect(id)
    }

    fn release(&self, id: &str) {
        self.inner.release(id);
    }

    fn fetch<'a>(&'a self, id: &'a str) -> BoxFuture<'a, mq_worker::Result<Option<ResultRecord>>> {
        self.inner.fetch(id)
    }

    fn wait<'a>(&'a self, id: &'a str, awaited: Awaited) -> BoxFuture<'a, mq_worker::Result<ResultRecord>> {
        self.inner.wait(id, awaited)
    }

    fn forget<'a>(&'a self, id: &'a str) -> BoxFuture<'a, mq_worker::Result<()>> {
        self.inner.forget(id)
    }

    fn loss(&self) -> Option<(DateTime<Utc>, String)> {
        self.inner.loss()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
