//! Short plays that reliably catch a broken broker, while a correct one passes.

use std::thread;
use std::time::{Duration, Instant};

use crate::check::{History, Verdict};
use crate::log::{Fault, How};
use crate::nemesis::Step;
use crate::run::Run;
use crate::work::IN_PROCESS;

/// The limit for every awaited event: beyond it the broker is broken.
const SOON: Duration = Duration::from_secs(40);
/// The limit for draining the queues.
const DRAINS_WITHIN: Duration = Duration::from_secs(60);

type Play = fn(&mut Run);

const PLAYS: [(&str, Play); 12] = [
    ("calm", calm),
    ("crash", crash),
    ("outage", outage),
    ("reconnect", reconnect),
    ("counted", counted),
    ("poison", poison),
    ("poison-in-process", poison_in_process),
    ("crowd", crowd),
    ("crowd-in-process", crowd_in_process),
    ("coincidence", coincidence),
    ("rolling", rolling),
    ("store", store),
];

/// The names of all plays.
pub(crate) fn names() -> Vec<&'static str> {
    PLAYS.iter().map(|(name, _)| *name).collect()
}

/// Performs a play and checks it.
pub(crate) fn perform(name: &str, run: &mut Run) -> Verdict {
    let (_, play) = PLAYS.iter().find(|(known, _)| *known == name).expect("the names were checked");
    play(run);
    run.finish(DRAINS_WITHIN)
}

/// Nothing goes wrong.
fn calm(run: &mut Run) {
    run.add_worker();
    send(run, "quick*150 value*2 flaky*5 reject*5 later:1000*5 nowhere*2");
    wait_for_producers(run);
}

/// A worker is killed in the middle of four tasks.
fn crash(run: &mut Run) {
    run.add_worker();
    send(run, "slow:2000*8");
    wait_for_producers(run);
    wait_until(run, |history| runs(history) >= 4);
    inflict(run, Fault::KillWorker);
}

/// A producer publishes while the broker is unreachable, and is killed after it has the outcome.
fn outage(run: &mut Run) {
    run.add_worker();
    // The first tasks make it declare its queue, so that only the publish remains for the outage.
    send(run, "quick*20 wait:5000 quick*1");
    wait_until(run, |history| answers(history) == 20);
    let run = &*run;
    thread::scope(|scope| {
        let fault = if run.arena.kind.is_rabbitmq() { Fault::KillBroker } else { Fault::Lock };
        let step = Step { after: Duration::ZERO, fault, which: 0, lasts: Duration::from_secs(12) };
        let outage = scope.spawn(move || run.stage().inflict(step));
        wait_until(run, |history| answers(history) == 21);
        run.producers[0].kill9();
        outage.join().expect("nothing panics");
    });
}

/// A worker's connection is cut while a task runs whose tag is later reused for another task. Then the worker is killed.
fn reconnect(run: &mut Run) {
    run.add_worker();
    send(run, "quick*10");
    wait_for_producers(run);
    wait_until(run, |history| successes(history) == 10);
    // The eleventh delivery; it is redelivered as the first of the new channel.
    send(run, "slow:8000");
    wait_for_producers(run);
    wait_until(run, |history| runs(history) == 11);
    inflict(run, Fault::Cut);
    thread::sleep(Duration::from_secs(2));
    send(run, "quick*9 slow:15000");
    wait_for_producers(run);
    // The second slow task is the eleventh delivery of the new channel. Meanwhile the first one ends.
    wait_until(run, |history| successes(history) == 20);
    wait_until(run, |history| runs(history) >= 21);
    thread::sleep(Duration::from_secs(1));
    inflict(run, Fault::KillWorker);
}

/// A worker is killed, and its task starts again with a crash count of one. Then the connection is cut, and the worker is
/// killed again before the second run has ended. Counting the crash republished the message: neither the ack of the old
/// message nor the run of the new one may be taken for the end of the task.
fn counted(run: &mut Run) {
    run.add_worker();
    send(run, "slow:9000");
    wait_for_producers(run);
    wait_until(run, |history| runs(history) == 1);
    inflict(run, Fault::KillWorker);
    wait_until(run, |history| runs(history) == 2);
    inflict(run, Fault::Cut);
    thread::sleep(Duration::from_secs(3));
    inflict(run, Fault::KillWorker);
}

/// A task kills its worker, together with three others each time. Only that task may be dead-lettered for it, and its last
/// run kills only a separate process. Afterwards another task does the same: together they die in every way.
fn poison(run: &mut Run) {
    run.allow_falls(4);
    poisoned(run, Vec::new());
}

/// The same where no separate process can be started.
fn poison_in_process(run: &mut Run) {
    run.allow_falls(6);
    poisoned(run, in_process());
}

fn poisoned(run: &mut Run, settings: Settings) {
    run.forbid_blame();
    run.add_worker_with(settings);
    send(run, "slow:1500*3 poison slow:1500*6 blocking:1500*3");
    wait_for_producers(run);
    wait_until(run, |history| crashes(history) == 3 && succeeded(history) == 12);
    send(run, "slow:1500*2 blocking:1500 poison:3 slow:1500*3");
    wait_for_producers(run);
}

/// Two tasks kill their worker while it holds dozens of messages besides the running ones.
fn crowd(run: &mut Run) {
    run.allow_falls(4);
    crowded(run, Vec::new());
}

/// The same where no separate process can be started for the last run.
fn crowd_in_process(run: &mut Run) {
    run.allow_falls(6);
    crowded(run, in_process());
}

fn crowded(run: &mut Run, mut settings: Settings) {
    run.forbid_blame();
    settings.push(("MQ_PREFETCH", "64".to_owned()));
    run.add_worker_with(settings);
    send(run, "slow:400*20 poison slow:400*20 poison blocking:400*20");
    wait_for_producers(run);
}

/// A task has lost two workers to a poison task, and a new one starts to kill workers while the first is in quarantine. It is
/// innocent all the same.
fn coincidence(run: &mut Run) {
    run.forbid_blame();
    run.add_worker();
    send(run, "slow:6000 poison");
    wait_for_producers(run);
    // The poison task is gone. The task that it took down has started for the third time.
    wait_until(run, |history| crashes(history) == 3 && runs(history) == 6);
    thread::sleep(Duration::from_secs(2));
    send(run, "poison:1");
    wait_for_producers(run);
}

type Settings = Vec<(&'static str, String)>;

fn in_process() -> Settings {
    vec![(IN_PROCESS, "1".to_owned())]
}

/// Four workers are restarted one by one under load, twice, as a deployment does it.
fn rolling(run: &mut Run) {
    run.forbid_repeats();
    (0..4).for_each(|_| run.add_worker());
    send(run, "slow:100*300 blocking:100*100 flaky*20 slow:100*300");
    wait_until(run, |history| runs(history) >= 20);
    inflict(run, Fault::Roll);
    inflict(run, Fault::Roll);
    wait_for_producers(run);
}

/// The result store is down while tasks end, and a worker that waits for it is killed.
fn store(run: &mut Run) {
    (0..2).for_each(|_| run.add_worker());
    send(run, "value*5 flaky*5 reject*3 slow:500*4 wait:1000 value*10 flaky*10 reject*3 slow:500*4");
    wait_until(run, |history| runs(history) >= 8);
    let run = &*run;
    thread::scope(|scope| {
        let lasts = Duration::from_secs(2);
        let step = Step { after: Duration::ZERO, fault: Fault::KillStore, which: 0, lasts };
        scope.spawn(move || run.stage().inflict(step));
        thread::sleep(Duration::from_secs(1));
        inflict(run, Fault::KillWorker);
    });
    wait_for_producers(run);
}

fn send(run: &mut Run, script: &str) {
    run.add_producer(vec![("FAULTS_SCRIPT", script.to_owned())]);
}

fn wait_for_producers(run: &Run) {
    for producer in &run.producers {
        producer.wait(SOON);
    }
}

fn inflict(run: &Run, fault: Fault) {
    run.stage().inflict(Step { after: Duration::ZERO, fault, which: 0, lasts: Duration::ZERO });
}

/// Waits for a condition; if it is never met, the checker reports what is wrong.
fn wait_until(run: &Run, is_there: impl Fn(&History) -> bool) {
    let deadline = Instant::now() + SOON;
    while Instant::now() < deadline && !is_there(&run.history()) {
        run.supervise_once();
        thread::sleep(Duration::from_millis(50));
    }
}

fn crashes(history: &History) -> usize {
    history.troubles.iter().filter(|trouble| trouble.fault == Fault::Crash).count()
}

/// Counts tasks, however often each succeeded.
fn succeeded(history: &History) -> usize {
    history.plain + history.tasks.values().filter(|task| task.has_succeeded()).count()
}

fn runs(history: &History) -> usize {
    history.plain + history.tasks.values().map(|task| task.runs.len()).sum::<usize>()
}

fn successes(history: &History) -> usize {
    let ended = |how| matches!(how, Some((_, How::Succeeded)));
    history.plain + history.tasks.values().flat_map(|task| &task.runs).filter(|run| ended(run.end)).count()
}

fn answers(history: &History) -> usize {
    history.plain + history.tasks.values().map(|task| task.answers.len()).sum::<usize>()
}
