//! Looking through a dead-letter queue: its messages are taken and held meanwhile, so only one may do it at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Broker, Lock, Locked};

/// When the lock expires if its holder dies.
const LIFETIME: Duration = Duration::from_secs(10);
/// How often it is taken again while its holder lives.
const AGAIN: Duration = Duration::from_secs(3);

/// The right to look through a dead-letter queue. It is only courtesy: a broker that has no locks has none here.
#[derive(Debug)]
pub struct DeadLetters {
    lock: Lock,
    keeping: Option<(CancellationToken, JoinHandle<()>)>,
}

impl DeadLetters {
    /// The lock of a queue; it is not taken yet.
    pub fn lock(queue: &str) -> Self {
        let key = format!("dead.{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, queue.as_bytes()).simple());
        let lock = Lock { key, holder: Uuid::new_v4().to_string(), lifetime: LIFETIME };
        Self { lock, keeping: None }
    }

    /// Takes the lock, and keeps it until it is [opened](Self::open) or dropped; false if another process has it.
    pub async fn take(&mut self, broker: &Arc<dyn Broker>) -> bool {
        if let Ok(Locked::Held(_)) = broker.lock(&self.lock).await {
            return false;
        }
        let (over, broker, lock) = (CancellationToken::new(), Arc::clone(broker), self.lock.clone());
        let ended = over.clone();
        let keep = async move {
            // A request is not cut off: it might reach the broker after the lock was opened.
            while ended.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_some() {
                let _ = broker.lock(&lock).await;
            }
        };
        self.keeping = Some((over, tokio::spawn(keep)));
        true
    }

    /// Lets others look.
    pub async fn open(mut self, broker: &dyn Broker) {
        if let Some((over, keeping)) = self.keeping.take() {
            over.cancel();
            let _ = keeping.await;
        }
        let _ = broker.unlock(&self.lock).await;
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        if let Some((over, _)) = &self.keeping {
            over.cancel();
        }
    }
}
