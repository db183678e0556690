//! The faults of a run: a plan derived from the seed, and its execution.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::arena::{Arena, Kind};
use crate::log::{Event, Fault, Log};
use crate::players::Player;

/// One fault of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The fault-free time before it.
    pub(crate) after: Duration,
    pub(crate) fault: Fault,
    /// Which process or node, modulo their number.
    pub(crate) which: usize,
    pub(crate) lasts: Duration,
}

/// Two concurrent tracks of faults; those of one track follow one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) processes: Vec<Step>,
    pub(crate) broker: Vec<Step>,
}

/// Returns the plan for a seed; the same seed always gives the same plan.
pub(crate) fn plan(seed: u64, kind: Kind, lasts: Duration) -> Plan {
    let processes = &[
        Fault::KillWorker,
        Fault::KillWorker,
        Fault::KillWorker,
        Fault::KillProducer,
        Fault::KillProducer,
        Fault::Roll,
        Fault::Pause,
    ];
    let broker: &[Fault] = match kind {
        Kind::Sqlite => &[Fault::Lock],
        Kind::Rabbitmq | Kind::RabbitmqClassic => &[
            Fault::KillBroker,
            Fault::CloseAll,
            Fault::Cut,
            Fault::Cut,
            Fault::Cut,
            Fault::Refuse,
            Fault::Stall,
            Fault::MemoryAlarm,
            Fault::DiskAlarm,
        ],
        Kind::Cluster => &[
            Fault::Member,
            Fault::Member,
            Fault::Cut,
            Fault::Cut,
            Fault::CloseAll,
            Fault::Stall,
            Fault::MemoryAlarm,
        ],
    };
    let mut rng = Rng::with_seed(seed);
    Plan { processes: track(&mut rng, processes, lasts), broker: track(&mut rng, broker, lasts) }
}

/// Deals the faults like cards: each occurs once before any occurs again.
pub(crate) fn track(rng: &mut Rng, faults: &[Fault], lasts: Duration) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut total = Duration::ZERO;
    while total < lasts {
        let mut deck = faults.to_vec();
        rng.shuffle(&mut deck);
        for fault in deck {
            let millis = match fault {
                Fault::Pause => 8_000..11_000,
                Fault::Stall => 5_000..9_000,
                Fault::Refuse => 500..3_000,
                Fault::MemoryAlarm | Fault::DiskAlarm => 1_000..5_000,
                Fault::Lock => 500..7_000,
                Fault::KillBroker | Fault::Member => 0..3_000,
                _ => 0..1,
            };
            let step = Step {
                after: Duration::from_millis(rng.u64(300..2_500)),
                fault,
                which: rng.usize(0..64),
                lasts: Duration::from_millis(rng.u64(millis)),
            };
            total += step.after + step.lasts;
            steps.push(step);
        }
    }
    steps
}

/// Everything that the faults can hit.
pub(crate) struct Stage<'a> {
    pub(crate) arena: &'a Arena,
    pub(crate) workers: &'a [Player],
    pub(crate) producers: &'a [Player],
    pub(crate) log: &'a Log,
    pub(crate) numbers: &'a AtomicU32,
}

impl Stage<'_> {
    /// Executes a track until the time is up. A fault that has started runs for its full time.
    pub(crate) fn perform(&self, steps: &[Step], until: Instant, stop: &AtomicBool) {
        for step in steps {
            let left = until.saturating_duration_since(Instant::now());
            if step.after >= left || stop.load(Ordering::SeqCst) {
                return;
            }
            thread::sleep(step.after);
            self.inflict(*step);
        }
    }

    /// Injects one fault.
    pub(crate) fn inflict(&self, step: Step) {
        let Step { fault, which, lasts, .. } = step;
        let worker = &self.workers[which % self.workers.len()];
        match fault {
            Fault::KillWorker | Fault::KillScheduler => self.kill(fault, worker),
            Fault::KillProducer => {
                if !self.producers.is_empty() {
                    self.kill(fault, &self.producers[which % self.producers.len()]);
                }
            }
            Fault::Roll => self.workers.iter().for_each(|worker| {
                worker.await_listening();
                self.to(fault, worker, || worker.terminate_well(self.log));
                worker.spawn();
            }),
            Fault::Pause => self.to(fault, worker, || {
                worker.pause(true);
                thread::sleep(lasts);
                worker.pause(false);
            }),
            Fault::Cut | Fault::Stall | Fault::Refuse => self.disconnect(step),
            Fault::KillBroker | Fault::Member => {
                self.during(fault, None, || self.arena.restart(which % self.arena.members(), lasts));
            }
            Fault::CloseAll => self.during(fault, None, || self.arena.close_all_connections()),
            Fault::MemoryAlarm => self.during(fault, None, || self.arena.memory_alarm(lasts)),
            Fault::DiskAlarm => self.during(fault, None, || self.arena.disk_alarm(lasts)),
            Fault::Lock => self.during(fault, None, || self.arena.lock(lasts)),
            Fault::KillStore => self.during(fault, None, || {
                self.arena.store.iter().for_each(|store| store.restart(lasts));
            }),
            Fault::Crash => {}
        }
    }

    fn kill(&self, fault: Fault, player: &Player) {
        self.to(fault, player, || player.kill9());
        player.spawn();
    }

    /// Applies a fault to one process, unless it has just exited by itself.
    fn to(&self, fault: Fault, player: &Player, act: impl FnOnce()) {
        if let Some(pid) = player.pid() {
            self.during(fault, Some(pid), act);
        }
    }

    fn disconnect(&self, Step { fault, which, lasts, .. }: Step) {
        let all: Vec<&Player> = self.workers.iter().chain(self.producers).collect();
        let player = all[which % all.len()];
        let Some(proxy) = &player.proxy else { return };
        self.to(fault, player, || match fault {
            Fault::Cut => proxy.cut(),
            Fault::Stall => {
                proxy.stall(true);
                thread::sleep(lasts);
                proxy.stall(false);
            }
            _ => {
                proxy.refuse(true);
                proxy.cut();
                thread::sleep(lasts);
                proxy.refuse(false);
            }
        });
    }

    /// Applies a fault to everything or to one process, and logs its start and end.
    fn during(&self, fault: Fault, target: Option<u32>, act: impl FnOnce()) {
        let number = self.numbers.fetch_add(1, Ordering::SeqCst);
        self.log.write(Event::FaultBegan { number, fault, target });
        act();
        self.log.write(Event::FaultEnded { number });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_plan() {
        let minute = Duration::from_secs(60);
        assert_eq!(plan(7, Kind::Rabbitmq, minute), plan(7, Kind::Rabbitmq, minute));
        assert_ne!(plan(7, Kind::Rabbitmq, minute), plan(8, Kind::Rabbitmq, minute));
    }

    #[test]
    fn each_fault_comes_before_any_comes_again_and_the_plan_is_long_enough() {
        for kind in [Kind::Rabbitmq, Kind::RabbitmqClassic, Kind::Cluster, Kind::Sqlite] {
            let Plan { processes, broker } = plan(1, kind, Duration::from_secs(180));
            let total = |steps: &[Step]| steps.iter().map(|step| step.after + step.lasts).sum::<Duration>();
            assert!(total(&processes).as_secs() >= 180 && total(&broker).as_secs() >= 180);
            let first: Vec<Fault> = processes[..7].iter().map(|step| step.fault).collect();
            assert_eq!(first.iter().filter(|fault| **fault == Fault::Pause).count(), 1);
        }
    }
}
