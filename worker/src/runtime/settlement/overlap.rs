//! Keeps the lock of a scheduled call for as long as it runs.
//!
//! The scheduler takes the lock for an hour, so that it expires by itself if the call is lost. A longer run must not lose
//! the lock: the next call would start beside it.

use std::sync::Arc;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::settler::Settler;
use crate::app::unique;
use crate::broker::{Broker, Lock, Locked};
use crate::message::headers::names;
use crate::runtime::admission::request::Request;
use crate::tracing;

/// How often the lock is renewed within its lifetime.
const TIMES: u32 = 3;

impl Settler {
    /// The lock that keeps other calls of its schedule out. The lock of a unique task is not renewed: it lasts as long as
    /// its option says.
    pub(crate) fn overlap_lock(&self, request: &Request) -> Option<Lock> {
        let headers = request.context.headers();
        headers.get_str(names::SCHEDULE)?;
        unique::read(headers, request.context.id())
    }
}

/// Renews the lock from time to time during a run. A renewal in progress when the run ends is awaited: it must not reach the
/// broker after the lock was released.
pub(crate) async fn keeping<T>(broker: &Arc<dyn Broker>, lock: Lock, run: impl Future<Output = T>) -> T {
    let done = CancellationToken::new();
    let run = async {
        let ended = run.await;
        done.cancel();
        ended
    };
    let renew = async {
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = sleep(lock.lifetime / TIMES) => {}
            }
            match broker.lock(&lock).await {
                Ok(Locked::Taken) => {}
                Ok(Locked::Held(other)) => {
                    tracing::warn!(
                        id = lock.holder,
                        other,
                        "another call of the schedule runs beside this one"
                    );
                    return;
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(
                        id = lock.holder,
                        error,
                        "cannot keep the lock of the schedule, trying again"
                    );
                }
            }
        }
    };
    tokio::join!(run, renew).0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::open;
    use crate::connection::{ConnectOptions, TlsOptions};
    use crate::routing::QueueKind;

    #[tokio::test]
    async fn a_run_that_is_longer_than_its_lock_keeps_it() {
        let url = "memory://overlap-lock".parse().expect("a URL");
        let options = ConnectOptions {
            timeout: Duration::from_secs(5),
            queue_kind: QueueKind::Classic,
            tls: TlsOptions::default(),
            name: "test".into(),
        };
        let broker = open(&url, &options).await.expect("a broker");
        let lifetime = Duration::from_secs(3);
        let lock = |holder: &str| Lock { key: "k".into(), holder: holder.into(), lifetime };
        assert_eq!(broker.lock(&lock("one")).await.expect("an answer"), Locked::Taken);
        let long = async {
            sleep(lifetime * 2).await;
            broker.lock(&lock("other")).await.expect("an answer")
        };
        let found = keeping(&broker, lock("one"), long).await;
        assert_eq!(found, Locked::Held(Some("one".into())));
        broker.unlock(&lock("one")).await.expect("unlocked");
        assert_eq!(broker.lock(&lock("other")).await.expect("an answer"), Locked::Taken);
    }
}
