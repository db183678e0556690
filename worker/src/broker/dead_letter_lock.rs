//! A lock for looking through a dead-letter queue: its messages are taken and held meanwhile, so only one process may do it
//! at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Broker, Lock, Locked};

/// The lifetime of the lock, in case its holder dies.
const LIFETIME: Duration = Duration::from_secs(10);
/// How often its holder extends it.
const AGAIN: Duration = Duration::from_secs(3);

/// The right to look through a dead-letter queue. It is advisory: on a broker without locks, every process gets it.
#[derive(Debug)]
pub struct DeadLetterLock {
    lock: Lock,
    keeping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl DeadLetterLock {
    /// Creates the lock of a queue, without taking it yet.
    pub fn new(queue: &str) -> Self {
        let key = format!("dead.{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, queue.as_bytes()).simple());
        let lock = Lock { key, holder: Uuid::new_v4().to_string(), lifetime: LIFETIME };
        Self { lock, keeping: None }
    }

    /// Takes the lock and keeps it until it is [released](Self::release) or dropped. Returns false if another process has it.
    pub async fn take(&mut self, broker: &Arc<dyn Broker>) -> bool {
        if let Ok(Locked::Held(_)) = broker.lock(&self.lock).await {
            return false;
        }
        let (over, broker, lock) = (CancellationToken::new(), Arc::clone(broker), self.lock.clone());
        let ended = over.clone();
        let keep = async move {
            // A request is never cancelled: it might reach the broker after the lock was released, and take it again.
            while ended.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_some() {
                let _ = broker.lock(&lock).await;
            }
        };
        self.keeping = Some((over, tokio::spawn(keep)));
        true
    }

    /// Releases the lock.
    pub async fn release(mut self, broker: &dyn Broker) {
        if let Some((over, keeping)) = self.keeping.take() {
            over.cancel();
            let _ = keeping.await;
        }
        let _ = broker.unlock(&self.lock).await;
    }
}

impl Drop for DeadLetterLock {
    fn drop(&mut self) {
        if let Some((over, _)) = &self.keeping {
            over.cancel();
        }
    }
}
