//! All middleware of an application, in order.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;

use super::run::{Erased, Next, Ran, RunEnd, Slot};
use super::{Middleware, Outgoing, TaskOutcome};
use crate::error::{Error, ErrorKind, Result};
use crate::panics::Caught;
use crate::show;
use crate::task::{Context, TaskError};
use crate::tracing;

/// How long an observer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A middleware that is linked into the program. Written by [`middleware!`](crate::middleware!).
pub struct MiddlewareEntry {
    /// Its path, which determines the order.
    pub name: &'static str,
    /// Creates it.
    pub make: fn() -> Arc<dyn Erased>,
}

inventory::collect!(MiddlewareEntry);

/// Hides the type of a middleware.
pub fn erase(middleware: impl Middleware) -> Arc<dyn Erased> {
    Arc::new(middleware)
}

/// The middleware of an application, the outermost first.
#[derive(Clone, Default)]
pub struct Chain(Arc<[Arc<dyn Erased>]>);

impl Chain {
    /// Returns the given middleware, followed by all that is linked into the program, sorted by path.
    pub fn collect(given: Vec<Arc<dyn Erased>>) -> Self {
        let mut entries: Vec<_> = inventory::iter::<MiddlewareEntry>.into_iter().collect();
        entries.sort_by_key(|entry| entry.name);
        Self(given.into_iter().chain(entries.into_iter().map(|entry| (entry.make)())).collect())
    }

    /// True when there is no middleware.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Asks each layer whether the call may be published, the outermost first.
    ///
    /// # Errors
    /// [`is_rejected`](Error::is_rejected) with the reason of the first layer that refuses or panics.
    pub async fn before_publish(&self, call: &mut Outgoing<'_>) -> Result<()> {
        for layer in &*self.0 {
            let asked = Caught::new(async { layer.before_publish(call).await }.boxed()).await;
            let reason = match asked {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => format!("it panicked: {panic}"),
            };
            let text =
                format!("cannot send `{}`: middleware `{}` refused it: {reason}", call.task, layer.name());
            return Err(Error::new(ErrorKind::Rejected, text));
        }
        Ok(())
    }

    /// Notifies each layer of the outcome of publishing, the innermost first.
    pub async fn after_publish(&self, call: &Outgoing<'_>, published: Result<(), &Error>) {
        for layer in self.0.iter().rev() {
            observe(layer.name(), "after_publish", async { layer.after_publish(call, published).await })
                .await;
        }
    }

    /// Runs a task inside all layers. `run` returns a value for the worker, and its end as the layers see it.
    ///
    /// The first value is what `run` returned, if it was called; the second is the error that takes its place. A layer
    /// that panics after the task has ended is logged and changes nothing: the task must not run again.
    pub async fn around<T: Send>(
        &self,
        context: &Context,
        run: impl Future<Output = (T, RunEnd)> + Send,
    ) -> (Option<T>, Option<TaskError>) {
        let slot: Slot<T> = Arc::new(Mutex::new(None));
        let innermost = {
            let slot = Arc::clone(&slot);
            async move {
                let (value, end) = run.await;
                *slot.lock().expect("never poisoned") = Some(value);
                end.seen()
            }
        };
        let next = Next { layers: &self.0, context, innermost: Box::new(|| innermost.boxed()) };
        let seen = Caught::new(async { next.run().await }.boxed()).await;
        let value = slot.lock().expect("never poisoned").take();
        let error = match seen {
            Ok(Ok(Ran(()))) => None,
            Ok(Err(error)) => Some(error),
            Err(panic) if value.is_some() => {
                let (task, id) = (context.task(), context.id());
                tracing::error!(task, id, panic, "a middleware panicked after the task had ended");
                None
            }
            Err(panic) => {
                Some(TaskError::failed(format!("a middleware panicked before the task ran: {panic}")))
            }
        };
        (value, error)
    }

    /// Notifies each layer of the outcome of a delivery, the innermost first.
    pub async fn on_outcome(&self, context: &Context, outcome: &TaskOutcome<'_>) {
        for layer in self.0.iter().rev() {
            observe(layer.name(), "on_outcome", async { layer.on_outcome(context, outcome).await }).await;
        }
    }
}

/// Runs an observer, which must not affect the call: a panic or a timeout is only logged.
async fn observe(middleware: &str, method: &str, observed: impl Future<Output = ()> + Send) {
    match tokio::time::timeout(LIMIT, Caught::new(observed.boxed())).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => tracing::error!(middleware, method, panic, "a middleware panicked"),
        Err(_) => {
            tracing::error!(middleware, method, after = %show::duration(LIMIT), "a middleware took too long and was stopped");
        }
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.0).finish()
    }
}
