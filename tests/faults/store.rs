//! A separate result store, which is killed and restarted while workers settle.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use fastrand::Rng;
use support::postgres::Postgres;
use support::redis::Redis;

use crate::log::Fault;
use crate::nemesis::Step;

/// The kind of result store, if it is not the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StoreKind {
    /// Redis, which writes what it has acknowledged to its disk.
    Redis,
    /// PostgreSQL.
    Postgres,
}

/// A running store.
pub(crate) enum Store {
    Redis(Mutex<Redis>),
    Postgres(Mutex<Postgres>),
}

impl Store {
    pub(crate) fn start(kind: StoreKind) -> Self {
        match kind {
            StoreKind::Redis => Self::Redis(Mutex::new(Redis::start())),
            StoreKind::Postgres => Self::Postgres(Mutex::new(Postgres::start())),
        }
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Self::Redis(redis) => redis.lock().expect("never poisoned").url(),
            Self::Postgres(postgres) => postgres.lock().expect("never poisoned").url(),
        }
    }

    /// Kills and restarts it.
    pub(crate) fn restart(&self, down: Duration) {
        match self {
            Self::Redis(redis) => {
                let mut redis = redis.lock().expect("never poisoned");
                redis.kill9();
                thread::sleep(down);
                redis.launch();
            }
            Self::Postgres(postgres) => {
                let mut postgres = postgres.lock().expect("never poisoned");
                postgres.crash();
                thread::sleep(down);
                postgres.launch();
            }
        }
    }
}

/// Returns the plan of its restarts; the same seed always gives the same plan.
pub(crate) fn plan(seed: u64, lasts: Duration) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed ^ 0x73746f7265);
    let (mut steps, mut total) = (Vec::new(), Duration::ZERO);
    while total < lasts {
        let (after, lasts) = (rng.u64(1_000..4_000), rng.u64(0..3_000));
        let (after, lasts) = (Duration::from_millis(after), Duration::from_millis(lasts));
        steps.push(Step { after, fault: Fault::KillStore, which: 0, lasts });
        total += after + lasts;
    }
    steps
}
