//! The task that every measurement sends and runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use mq_worker::{Context, task};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::measure::Begun;

/// The queue of the comparison.
pub(crate) const QUEUE: &str = "bench";

/// What a sign-up would send.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    id: u64,
    email: String,
    name: String,
}

impl User {
    pub(crate) fn new(id: u64) -> Self {
        Self { id, email: format!("user{id:06}@example.com"), name: "Ada".into() }
    }
}

/// The body that mq-worker writes for one user, for the raw clients.
pub(crate) fn body(id: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Empty {}
    serde_json::to_vec(&((User::new(id),), Empty {}, Empty {})).expect("a user is JSON")
}

/// Parses a body as a worker has to.
pub(crate) fn parse(body: &[u8]) {
    let (args, _, _): ((User,), serde_json::Value, serde_json::Value) =
        serde_json::from_slice(body).expect("the body is of this program");
    std::hint::black_box(args);
}

/// Follows the tasks of a measurement.
#[derive(Clone, Default)]
pub(crate) struct Progress(Arc<Inner>);

#[derive(Default)]
struct Inner {
    wanted: u64,
    count: AtomicU64,
    first: OnceLock<Begun>,
    last_start: std::sync::Mutex<Option<Instant>>,
    times_starts: bool,
    reached: Notify,
}

impl Progress {
    /// Follows tasks until this many have run.
    pub(crate) fn until(wanted: u64) -> Self {
        Self(Arc::new(Inner { wanted, ..Inner::default() }))
    }

    /// Follows the start of each task.
    pub(crate) fn of_starts() -> Self {
        Self(Arc::new(Inner { times_starts: true, ..Inner::default() }))
    }

    fn ran(&self) {
        let inner = &*self.0;
        if inner.times_starts {
            *inner.last_start.lock().expect("never poisoned") = Some(Instant::now());
            return inner.reached.notify_one();
        }
        inner.first.get_or_init(Begun::now);
        if inner.count.fetch_add(1, Ordering::Relaxed) + 1 == inner.wanted {
            inner.reached.notify_one();
        }
    }

    /// Waits until all have run; returns the measurement that began with the first.
    pub(crate) async fn done(&self) -> Begun {
        self.0.reached.notified().await;
        *self.0.first.get().expect("the first has run")
    }

    /// Waits for the next start and returns its time.
    pub(crate) async fn started(&self) -> Instant {
        self.0.reached.notified().await;
        self.0.last_start.lock().expect("never poisoned").take().expect("one has started")
    }
}

#[task(queue = "bench", ignore_result)]
pub(crate) async fn noop(ctx: &Context, user: User) {
    std::hint::black_box(&user);
    ctx.state::<Progress>().ran();
}
