//! Tells the program's failure hooks of a task that failed for good. They are observers: nothing they do changes what
//! becomes of the message.

use std::sync::Arc;
use std::time::Duration;

use crate::show;
use crate::task::FailedTask;
use crate::task::failed::FailureHookEntry;

/// How long a hook may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The hooks of the program, in the order of their paths.
pub struct FailureHooks(Vec<&'static FailureHookEntry>);

impl FailureHooks {
    /// Those that are linked in.
    pub fn collect() -> Self {
        let mut hooks: Vec<_> = inventory::iter::<FailureHookEntry>.into_iter().collect();
        hooks.sort_by_key(|hook| hook.name);
        Self(hooks)
    }

    /// True when nobody wants to hear.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells one after the other.
    pub async fn tell(&self, failed: FailedTask) {
        let failed = Arc::new(failed);
        for hook in &self.0 {
            let (run, told) = (hook.run, Arc::clone(&failed));
            // A task of its own, so that a panic stays there.
            let mut hearing = tokio::spawn(async move { run(&told).await });
            let problem = match tokio::time::timeout(LIMIT, &mut hearing).await {
                Ok(Ok(Ok(()))) => continue,
                Ok(Ok(Err(error))) => error.to_string(),
                Ok(Err(panic)) => panic.to_string(),
                Err(_) => {
                    hearing.abort();
                    format!("it took longer than {}", show::duration(LIMIT))
                }
            };
            tracing::error!(hook = hook.name, id = failed.id(), problem, "a failure hook has failed");
        }
    }
}
