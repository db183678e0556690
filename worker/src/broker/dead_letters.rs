//! Looking through a dead-letter queue: its messages are taken and held meanwhile, so only one may do it at a time.

use std::time::Duration;

use uuid::Uuid;

use super::{Broker, Lock, Locked};

/// When the lock expires if its holder dies.
const LIFETIME: Duration = Duration::from_secs(30);

/// The right to look through a dead-letter queue. It is only courtesy: a broker that has no locks has none here.
#[derive(Debug)]
pub struct DeadLetters(Lock);

impl DeadLetters {
    /// The lock of a queue; it is not taken yet.
    pub fn lock(queue: &str) -> Self {
        let key = format!("dead.{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, queue.as_bytes()).simple());
        Self(Lock { key, holder: Uuid::new_v4().to_string(), lifetime: LIFETIME })
    }

    /// Takes the lock; false if another process has it.
    pub async fn take(&self, broker: &dyn Broker) -> bool {
        !matches!(broker.lock(&self.0).await, Ok(Locked::Held(_)))
    }

    /// Lets others look.
    pub async fn open(&self, broker: &dyn Broker) {
        let _ = broker.unlock(&self.0).await;
    }
}
