//! The queues of one name with their lock, and the clock thread that runs their timers.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Instant;

use super::state::MemoryState;
use crate::broker::{Settle, Verdict};

static HUBS: LazyLock<Mutex<HashMap<String, Arc<Hub>>>> = LazyLock::new(Mutex::default);

/// The shared state of one `memory://NAME` in this process.
pub(super) struct Hub {
    this: Weak<Hub>,
    guarded: Mutex<Guarded>,
    /// Notified when something becomes due earlier than the clock thread expects.
    sooner: Condvar,
}

struct Guarded {
    state: MemoryState,
    /// True while a thread waits for the next deadline.
    clock_runs: bool,
}

impl Hub {
    pub(super) fn named(name: &str) -> Arc<Hub> {
        let mut hubs = HUBS.lock().expect("never poisoned");
        Arc::clone(hubs.entry(name.to_owned()).or_insert_with(|| {
            Arc::new_cyclic(|this: &Weak<Hub>| Hub {
                this: this.clone(),
                guarded: Mutex::new(Guarded { state: MemoryState::new(this.clone()), clock_runs: false }),
                sooner: Condvar::new(),
            })
        }))
    }

    /// Runs the due timers, then `act` on the state under the lock.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut MemoryState, Instant) -> T) -> T {
        let mut guarded = self.lock();
        let known = guarded.state.next_deadline();
        let now = Instant::now();
        guarded.state.tick(now);
        let value = act(&mut guarded.state, now);
        let next = guarded.state.next_deadline();
        if next.is_some() && !guarded.clock_runs {
            guarded.clock_runs = true;
            self.start_clock();
        } else if next < known || known.is_none() {
            self.sooner.notify_one();
        }
        let refused = guarded.state.take_refused();
        drop(guarded);
        // After the lock is released: a dropped delivery takes it to requeue itself.
        drop(refused);
        value
    }

    /// Starts the clock: a thread and not a task, so that delays do not depend on the runtime of the publisher. It stops when
    /// nothing is left to wait for.
    fn start_clock(&self) {
        let hub = self.this.upgrade().expect("the caller holds the hub");
        thread::Builder::new()
            .name("mq-memory-clock".into())
            .spawn(move || hub.run_clock())
            .expect("the system can start one more thread");
    }

    fn run_clock(&self) {
        let mut guarded = self.lock();
        loop {
            let now = Instant::now();
            guarded.state.tick(now);
            let refused = guarded.state.take_refused();
            if !refused.is_empty() {
                drop(guarded);
                drop(refused);
                guarded = self.lock();
                continue;
            }
            let Some(next) = guarded.state.next_deadline() else {
                guarded.clock_runs = false;
                return;
            };
            let pause = next.saturating_duration_since(now);
            guarded = self.sooner.wait_timeout(guarded, pause).expect("never poisoned").0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().expect("never poisoned")
    }
}

impl Settle for Hub {
    fn settle(&self, tag: u64, verdict: Verdict) {
        self.with(|state, now| state.settle(tag, verdict, now));
    }
}
