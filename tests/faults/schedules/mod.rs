//! Schedules under faults: three schedulers are killed, paused past their lease and cut off, the broker restarts, and each
//! due time must be sent once.
//!
//! The schedulers are `mq-worker beat` ([`scheduler`]) with the schedules of an `mq-worker.toml` ([`entries`]) and a broker
//! that logs who leads and may be broken on purpose ([`broker`]). Arrivals are logged ([`reader`]) and compared with all due
//! times ([`check`]).

pub(crate) mod broker;
mod check;
mod entries;
mod load;
mod reader;
pub(crate) mod scheduler;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mq_worker::Schedule;
use mq_worker::broker::LogEntry;

use self::check::Setting;
pub(crate) use self::check::Verdict;
use self::entries::{schedules, to_toml};
use self::load::Load;
use self::reader::Reader;
use crate::arena::Kind;
use crate::log::{Event, Fault, Line, Time, now};
use crate::nemesis::{Plan, Step, track};
use crate::run::Run;

/// The number of schedulers.
const SCHEDULERS: usize = 3;
/// The limit for every awaited event: beyond it the schedulers are broken.
const SOON: Duration = Duration::from_secs(120);
/// Longer than a leader's lease.
const PAST_ITS_LEASE: Duration = Duration::from_secs(6);
/// A call that is due this much after a moment arrives after all that were due before it.
const AFTERWARDS: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);

/// A run with schedules.
pub(crate) struct Schedules<'a> {
    run: &'a mut Run,
    schedules: Vec<Schedule>,
    reader: Reader,
    /// All due times after this are sent.
    from: Time,
    load: Load,
}

impl Schedules<'_> {
    /// Starts the schedulers; one of them leads when this returns.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(crate) fn start(run: &mut Run, count: usize) -> mq_worker::Result<Schedules<'_>> {
        let schedules = schedules(count);
        let file = run.directory.join("schedules.toml");
        std::fs::write(&file, to_toml(&schedules)).expect("the directory can be written");
        let settings = vec![("MQ_CONFIG", file.display().to_string())];
        let reader = Reader::start(run.arena.app()?, run.directory.join("log"));
        // The first scheduler stores the schedules, so that the others find them.
        run.add_scheduler(settings.clone());
        let app = run.arena.app()?;
        let deadline = Instant::now() + SOON;
        let listed = async || Ok::<_, mq_worker::Error>(app.schedules().list().await?.len());
        while block_on(listed())? < count && Instant::now() < deadline {
            thread::sleep(PAUSE);
        }
        block_on(app.close());
        let from = now();
        (1..SCHEDULERS).for_each(|_| run.add_scheduler(settings.clone()));
        let started = Schedules { run, schedules, reader, from, load: Load::measure() };
        started.wait_until(|lines| leader(lines).is_some());
        Ok(started)
    }

    /// Injects random faults for a time.
    pub(crate) fn play(&self, seed: u64, lasts: Duration) {
        let Plan { processes, broker } = plan(seed, self.run.arena.kind, lasts);
        let until = Instant::now() + lasts;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let tracks = [&processes, &broker].map(|track| scope.spawn(|| self.perform(track, until)));
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    self.run.supervise_once();
                    thread::sleep(PAUSE);
                }
            });
            while Instant::now() < until || tracks.iter().any(|track| !track.is_finished()) {
                thread::sleep(PAUSE);
            }
            stop.store(true, Ordering::SeqCst);
        });
    }

    /// Performs a short play that reliably catches a broken scheduler.
    ///
    /// # Errors
    /// The broker cannot be reached.
    pub(crate) fn short_play(&self) -> mq_worker::Result<()> {
        self.come_on();
        self.inflict_on_leader(Fault::Pause, PAST_ITS_LEASE);
        self.come_on();
        block_on(self.kill_leader_after_its_mark())?;
        self.come_on();
        if self.run.arena.kind.is_rabbitmq() {
            self.inflict_on_leader(Fault::Stall, PAST_ITS_LEASE);
            self.come_on();
            self.inflict_on_leader(Fault::Cut, Duration::ZERO);
        } else {
            self.inflict_on_leader(Fault::Lock, Duration::from_secs(1));
        }
        Ok(())
    }

    /// Waits until all faults are healed, stops the schedulers, and checks. A call may be late by `busy` beyond a takeover;
    /// that is for an idle machine, and is multiplied by the measured slowdown.
    pub(crate) fn finish(self, busy: Duration) -> Verdict {
        let until = now();
        self.come_on();
        self.run.workers.iter().for_each(|scheduler| scheduler.terminate_well(&self.run.log));
        if let Err(error) = self.reader.stop() {
            let code = format!("{error:#}").replace(' ', "-");
            self.run.log.write(Event::Exit { name: "reader".into(), code });
        }
        let busy = busy.mul_f64(self.load.stop());
        let setting = Setting { from: self.from, until, busy };
        check::check(read(&self.run.directory.join("log")), &self.schedules, setting)
    }

    /// Waits until calls arrive that are due from now on.
    fn come_on(&self) {
        let after = now() + AFTERWARDS;
        let each_second = self.schedules.iter().filter(|schedule| {
            schedule.timing.as_every() == Some(Duration::from_secs(1)) && schedule.jitter.is_zero()
        });
        let names: Vec<&str> = each_second.map(|schedule| schedule.name.as_str()).collect();
        self.wait_until(|lines| {
            names.iter().all(|name| {
                let came = |line: &Line| matches!(&line.event, Event::Came { schedule, due, .. } if schedule == name && *due > after);
                lines.iter().rev().any(came)
            })
        });
    }

    fn perform(&self, steps: &[Step], until: Instant) {
        for step in steps {
            if step.after >= until.saturating_duration_since(Instant::now()) {
                return;
            }
            thread::sleep(step.after);
            // Three out of four faults hit the leader.
            match step.which % 4 {
                0 => self.run.stage().inflict(*step),
                _ => self.run.stage().inflict(Step { which: self.leader(), ..*step }),
            }
        }
    }

    fn inflict_on_leader(&self, fault: Fault, lasts: Duration) {
        let step = Step { after: Duration::ZERO, fault, which: self.leader(), lasts };
        self.run.stage().inflict(step);
    }

    /// Returns the number of the scheduler that leads.
    fn leader(&self) -> usize {
        leader(&self.lines()).unwrap_or(0)
    }

    /// Kills the leader after it has sent calls since its last mark: only the log records them.
    async fn kill_leader_after_its_mark(&self) -> mq_worker::Result<()> {
        let app = self.run.arena.app()?;
        let broker = app.broker().await?;
        let log = broker.schedule_log().expect("both brokers keep schedules");
        let deadline = Instant::now() + SOON;
        let mut place = 0;
        while Instant::now() < deadline {
            let leader = &self.run.workers[self.leader()];
            leader.pause(true);
            let entries = log.newer(place).await?;
            let is_mark = |entry: &LogEntry| broker::is_mark(entry);
            let since = entries.iter().rposition(is_mark).map(|at| &entries[at..]).unwrap_or_default();
            if since.iter().any(broker::is_sent) {
                self.inflict_on_leader(Fault::KillScheduler, Duration::ZERO);
                break;
            }
            leader.pause(false);
            place = place.max(entries.iter().rfind(|entry| is_mark(entry)).map_or(0, |entry| entry.at - 1));
            tokio::time::sleep(PAUSE + Duration::from_millis(fastrand::u64(0..200))).await;
        }
        app.close().await;
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        read(&self.run.directory.join("log"))
    }

    /// Waits for a condition; if it is never met, the checker reports what is wrong.
    fn wait_until(&self, is_there: impl Fn(&[Line]) -> bool) {
        let deadline = Instant::now() + SOON;
        while Instant::now() < deadline && !is_there(&self.lines()) {
            self.run.supervise_once();
            thread::sleep(PAUSE);
        }
    }
}

/// Returns the number of the scheduler that was the last to lead.
fn leader(lines: &[Line]) -> Option<usize> {
    let line = lines.iter().rfind(|line| matches!(line.event, Event::Leads { .. }))?;
    let (name, _) = line.who.split_once('/')?;
    name.trim_start_matches(char::is_alphabetic).parse().ok()
}

fn read(path: &PathBuf) -> Vec<Line> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    // The last line may be incomplete.
    let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    whole.map(|line| line.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(future)
}

/// Returns the plan for a seed; the same seed always gives the same plan.
fn plan(seed: u64, kind: Kind, lasts: Duration) -> Plan {
    let processes = [Fault::KillScheduler, Fault::KillScheduler, Fault::Pause, Fault::Roll];
    let broker: &[Fault] = match kind {
        Kind::Sqlite => &[Fault::Lock],
        Kind::Rabbitmq | Kind::RabbitmqClassic => &[
            Fault::KillBroker,
            Fault::CloseAll,
            Fault::Cut,
            Fault::Refuse,
            Fault::Stall,
            Fault::Stall,
            Fault::MemoryAlarm,
        ],
        Kind::Cluster => &[Fault::Member, Fault::Cut, Fault::CloseAll, Fault::Stall],
    };
    let mut rng = Rng::with_seed(seed);
    Plan { processes: track(&mut rng, &processes, lasts), broker: track(&mut rng, broker, lasts) }
}
