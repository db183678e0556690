//! A run: load and faults → heal → quiesce → drain → check.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mq_worker::App;

use crate::arena::{Arena, CONCURRENCY, DEAD, Kind, QUEUE};
use crate::check::{self, History, Setting, Verdict};
use crate::log::{Event, Kind as TaskKind, Log};
use crate::mutation;
use crate::nemesis::{Plan, Stage, plan};
use crate::players::{Player, ROLE, SCHEDULER};
use crate::store::{self, StoreKind};
use crate::work::MAX_RETRIES;

/// A run, random or scripted.
pub(crate) struct Run {
    pub(crate) arena: Arena,
    pub(crate) directory: PathBuf,
    pub(crate) log: Log,
    pub(crate) workers: Vec<Player>,
    pub(crate) producers: Vec<Player>,
    numbers: AtomicU32,
    /// A broken broker for workers and producers.
    mutation: Option<String>,
    /// Whether a task that is dead-lettered for another's crash is a violation.
    forbids_blame: bool,
    /// Whether any repeated run is a violation.
    forbids_repeats: bool,
    /// How many workers may be killed by tasks.
    allows_falls: usize,
    /// The number of tasks that a worker runs at once, and its prefetch.
    concurrency: usize,
}

/// The extent of a random run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    pub(crate) workers: usize,
    pub(crate) producers: usize,
    /// The number of poison tasks.
    pub(crate) poison: usize,
    /// The pause of a producer between two tasks.
    pub(crate) pause: Duration,
    /// Tasks per second of all producers together, instead of the pause.
    pub(crate) rate: Option<u32>,
}

/// How long the queues may take to drain once all faults are healed.
pub(crate) const DRAINS_WITHIN: Duration = Duration::from_secs(120);
/// After this long without an event the run is over, if every task has its outcome.
const QUIET: Duration = Duration::from_secs(2);
/// After this long without an event nothing more will happen. Longer than SQLite needs to notice a dead worker, and RabbitMQ
/// to notice a lost move between queues.
const GIVES_UP: Duration = Duration::from_secs(20);
/// How many tasks a worker runs at once under load.
const CONCURRENCY_UNDER_LOAD: usize = 32;
/// The crash count at which a message is dead-lettered.
const MAX_CRASHES: u32 = 3;

impl Run {
    /// Starts the broker, but no other process.
    pub(crate) fn new(
        kind: Kind,
        store: Option<StoreKind>,
        directory: &Path,
        mutation: Option<String>,
    ) -> Run {
        Run {
            arena: Arena::start(kind, store, directory),
            directory: directory.to_owned(),
            log: Log::open(&directory.join("log"), "control"),
            workers: Vec::new(),
            producers: Vec::new(),
            numbers: AtomicU32::new(1),
            mutation,
            forbids_blame: false,
            forbids_repeats: false,
            allows_falls: usize::MAX,
            concurrency: CONCURRENCY,
        }
    }

    /// Makes any repeated run a violation from now on, whatever happens.
    pub(crate) fn forbid_repeats(&mut self) {
        self.forbids_repeats = true;
    }

    /// Makes it a violation from now on if a task is dead-lettered for another's crash.
    pub(crate) fn forbid_blame(&mut self) {
        self.forbids_blame = true;
    }

    /// Makes it a violation if tasks kill more workers than this.
    pub(crate) fn allow_falls(&mut self, most: usize) {
        self.allows_falls = most;
    }

    /// Starts another worker.
    pub(crate) fn add_worker(&mut self) {
        self.add_worker_with(Vec::new());
    }

    /// Starts another worker with settings of its own.
    pub(crate) fn add_worker_with(&mut self, settings: Vec<(&'static str, String)>) {
        let name = format!("w{}", self.workers.len());
        let player = self.player(name, "worker", settings);
        player.spawn();
        self.workers.push(player);
    }

    /// Starts another scheduler.
    pub(crate) fn add_scheduler(&mut self, settings: Vec<(&'static str, String)>) {
        let name = format!("s{}", self.workers.len());
        let player = self.player(name, SCHEDULER, settings);
        player.spawn();
        self.workers.push(player);
    }

    /// Starts another producer.
    pub(crate) fn add_producer(&mut self, settings: Vec<(&'static str, String)>) {
        let name = format!("p{}", self.producers.len());
        let player = self.player(name, "producer", settings);
        player.spawn();
        self.producers.push(player);
    }

    fn player(&self, name: String, role: &str, more: Vec<(&'static str, String)>) -> Player {
        let (url, proxy) = self.arena.way(self.workers.len() + self.producers.len());
        let mut settings = self.arena.settings(&url);
        settings.push(("MQ_CONCURRENCY", self.concurrency.to_string()));
        settings.extend(more);
        settings.push((ROLE, role.to_owned()));
        settings.extend(self.mutation.iter().map(|name| (mutation::VARIABLE, name.clone())));
        Player::new(name, &self.directory, proxy, settings)
    }

    /// Returns everything that the nemesis can hit.
    pub(crate) fn stage(&self) -> Stage<'_> {
        Stage {
            arena: &self.arena,
            workers: &self.workers,
            producers: &self.producers,
            log: &self.log,
            numbers: &self.numbers,
        }
    }

    /// Plays a random run until all faults are healed.
    pub(crate) fn play(&mut self, extent: Extent) {
        if extent.rate.is_some() {
            self.concurrency = CONCURRENCY_UNDER_LOAD;
        }
        for index in 0..extent.workers {
            self.add_worker();
            if index < extent.producers {
                let mut settings = vec![
                    ("FAULTS_SEED", (extent.seed * 100 + index as u64).to_string()),
                    ("FAULTS_PAUSE", extent.pause.as_millis().to_string()),
                    ("FAULTS_POISON", if index == 0 { extent.poison.to_string() } else { "0".into() }),
                ];
                if let Some(rate) = extent.rate {
                    let producers = extent.producers.min(extent.workers) as u64;
                    let micros = 1_000_000 * producers / u64::from(rate.max(1));
                    settings.push(("FAULTS_MICROS", micros.to_string()));
                }
                self.add_producer(settings);
            }
        }
        let Plan { processes, broker } = plan(extent.seed, self.arena.kind, extent.lasts);
        let of_store = self.arena.store.as_ref().map(|_| store::plan(extent.seed, extent.lasts));
        let until = Instant::now() + extent.lasts;
        let stop = AtomicBool::new(false);
        let stage = self.stage();
        thread::scope(|scope| {
            let tracks: Vec<_> = [&processes, &broker]
                .into_iter()
                .chain(&of_store)
                .map(|track| scope.spawn(|| stage.perform(track, until, &stop)))
                .collect();
            scope.spawn(|| self.supervise(&stop));
            while Instant::now() < until || tracks.iter().any(|track| !track.is_finished()) {
                thread::sleep(Duration::from_millis(50));
            }
            // Stop the producers first: what they send now must arrive, since there are no more faults.
            let told: Vec<_> = self
                .producers
                .iter()
                .map(|producer| scope.spawn(|| producer.terminate_well(&self.log)))
                .collect();
            told.into_iter().for_each(|told| told.join().expect("nothing panics"));
            stop.store(true, Ordering::SeqCst);
        });
    }

    fn supervise(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::SeqCst) {
            self.supervise_once();
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Restarts processes that exited by themselves.
    pub(crate) fn supervise_once(&self) {
        self.workers.iter().chain(&self.producers).for_each(|player| player.supervise(&self.log));
    }

    /// Waits until every task has its outcome and the queues are empty, stops the workers, and checks.
    pub(crate) fn finish(&self, drains_within: Duration) -> Verdict {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let drained = runtime.block_on(self.drain(drains_within));
        self.workers.iter().for_each(|worker| worker.terminate_well(&self.log));
        let looked = runtime.block_on(self.look());
        for problem in [drained, looked].into_iter().filter_map(Result::err) {
            self.log.write(Event::Exit {
                name: "control".into(),
                code: format!("{problem:#}").replace(' ', "-"),
            });
        }
        let setting = Setting {
            workers: self.workers.len(),
            prefetch: self.concurrency,
            max_retries: MAX_RETRIES,
            max_crashes: MAX_CRASHES,
            forbids_blame: self.forbids_blame,
            forbids_repeats: self.forbids_repeats,
            allows_falls: self.allows_falls,
        };
        check::check(&self.history(), setting)
    }

    /// The log as it is now.
    pub(crate) fn history(&self) -> History {
        check::read(&self.directory.join("log")).expect("the log can be read")
    }

    async fn drain(&self, limit: Duration) -> mq_worker::Result<()> {
        let app = self.arena.app()?;
        let deadline = Instant::now() + limit;
        let mut quiet_since = (0, Instant::now());
        while Instant::now() < deadline {
            self.supervise_once();
            self.collect_dead_letters(&app).await?;
            let written = fs::metadata(self.directory.join("log")).map_or(0, |file| file.len());
            if written != quiet_since.0 {
                quiet_since = (written, Instant::now());
            }
            if quiet_since.1.elapsed() >= QUIET && self.is_done(&app).await? {
                break;
            }
            if quiet_since.1.elapsed() >= GIVES_UP {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.collect_dead_letters(&app).await?;
        app.close().await;
        Ok(())
    }

    async fn is_done(&self, app: &App) -> mq_worker::Result<bool> {
        let counts = app.broker().await?.queues(&[QUEUE.to_owned()]).await?;
        let is_empty = counts
            .iter()
            .all(|queue| queue.ready + queue.running.unwrap_or(0) + queue.delayed.unwrap_or(0) == 0);
        let has_outcomes =
            || self.history().tasks.values().all(|task| !task.is_promised() || task.has_outcome());
        // A delayed copy may exist although its task is done. Checked last, because `rabbitmqctl` is slow.
        Ok(is_empty && has_outcomes() && self.arena.waiting().iter().all(|(_, count)| *count == 0))
    }

    /// Writes a log line for every dead letter.
    async fn collect_dead_letters(&self, app: &App) -> mq_worker::Result<()> {
        let broker = app.broker().await?;
        if broker.queues(&[DEAD.to_owned()]).await?.is_empty() {
            return Ok(());
        }
        while let Some(delivery) = broker.get(DEAD).await? {
            let headers = &delivery.message.headers;
            let id = headers.id().unwrap_or("without-an-id").to_owned();
            let reason = headers.get_str("mq-dead-reason").unwrap_or("without-a-reason").to_owned();
            self.log.write(Event::Dead { id, reason });
            delivery.ack();
        }
        Ok(())
    }

    /// Logs what is left in the queue after all workers have stopped, and the states in the result store.
    async fn look(&self) -> mq_worker::Result<()> {
        let app = self.arena.app()?;
        let broker = app.broker().await?;
        // RabbitMQ does not report unsettled deliveries, but without consumers they are ready again.
        for queue in broker.queues(&[QUEUE.to_owned()]).await? {
            let count = queue.ready + queue.running.unwrap_or(0) + queue.delayed.unwrap_or(0);
            self.log.write(Event::Left { queue: queue.name, count });
        }
        for (queue, count) in self.arena.waiting().into_iter().filter(|(_, count)| *count > 0) {
            self.log.write(Event::Left { queue, count });
        }
        if self.arena.kind == Kind::Sqlite || self.arena.store.is_some() {
            let all = self.arena.store.is_some();
            let values = |kind| all || kind == Some(TaskKind::Value);
            let history = self.history();
            let wanted =
                history.tasks.iter().filter(|(_, task)| values(task.intent.map(|intent| intent.kind)));
            for (id, _) in wanted.filter(|(_, task)| task.has_succeeded() || all && !task.dead.is_empty()) {
                let state = app.result::<u64>(id.clone()).await?.state().await?;
                self.log.write(Event::Stored { id: id.clone(), state: state.to_string() });
            }
        }
        app.close().await;
        Ok(())
    }
}
