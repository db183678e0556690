//! Calls the program's failure hooks after a task has failed permanently. They only observe: nothing they do affects the
//! message.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::panics::Caught;
use crate::task::FailedTask;
use crate::task::failed::FailureHookEntry;
use crate::tracing;

/// How long a hook may take. A plain function cannot be interrupted: the worker continues without it.
const LIMIT: Duration = Duration::from_secs(30);

/// The hooks of the program, in the order of their paths.
pub(crate) struct FailureHooks(Vec<&'static FailureHookEntry>);

impl FailureHooks {
    /// Collects the hooks that are linked in.
    pub(crate) fn collect() -> Self {
        let mut hooks: Vec<_> = inventory::iter::<FailureHookEntry>.into_iter().collect();
        hooks.sort_by_key(|hook| hook.name);
        Self(hooks)
    }

    /// True if there are no hooks.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Calls the hooks one after another, until `cold` fires.
    pub(crate) async fn run(&self, failed: FailedTask, cold: &CancellationToken) {
        let failed = Arc::new(failed);
        for hook in &self.0 {
            if cold.is_cancelled() {
                tracing::warn!(
                    hook = hook.name,
                    id = failed.id(),
                    "skipped a failure hook: the worker is stopping"
                );
                continue;
            }
            let (run, call) = (hook.run, Arc::clone(&failed));
            // Spawned, so that a panic stays there.
            let mut running = tokio::spawn(Caught::new(async move { run(&call).await }.boxed()));
            let in_time = tokio::select! {
                biased;
                in_time = tokio::time::timeout(LIMIT, &mut running) => in_time.map_err(|_| "it took longer than 30s"),
                () = cold.cancelled() => Err("it was cut short: the worker stops"),
            };
            let problem = match in_time {
                Ok(Ok(Ok(Ok(())))) => continue,
                Ok(Ok(Ok(Err(error)))) => error.to_string(),
                Ok(Ok(Err(panic))) => format!("it panicked: {panic}"),
                Ok(Err(stopped)) => stopped.to_string(),
                Err(cut) => {
                    running.abort();
                    cut.to_owned()
                }
            };
            tracing::error!(hook = hook.name, id = failed.id(), problem, "a failure hook failed");
        }
    }
}
