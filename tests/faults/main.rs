//! Breaks everything that can break while tasks run, and checks that none was lost.
//!
//! ```console
//! $ cargo run -p mq-worker-tests --bin faults -- --broker rabbitmq --seconds 180 --seed 7
//! ```
//!
//! Producers and workers are separate processes ([`producer`], [`work`]) that write everything they do to one log ([`log`]).
//! Meanwhile a nemesis kills, pauses and cuts ([`nemesis`]), following a plan derived from the seed. Then all faults are
//! healed, the queues must drain, and the checker ([`check`]) reads the log: it reports confirmed tasks without an outcome,
//! repeated runs that no fault explains, and more. With `--scenario` a short fixed play is performed instead ([`scenario`]),
//! optionally with a broker or a result store that is broken on purpose ([`mutation`], [`bad_store`]) and must be caught.
//! With `--schedules` there are schedulers instead, and each due time must be sent once ([`schedules`]).
#![allow(clippy::print_stdout, reason = "this is a command")]

mod arena;
mod bad_store;
mod check;
mod log;
mod mutation;
mod nemesis;
mod pace;
mod players;
mod producer;
mod run;
mod scenario;
mod schedules;
mod store;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use self::arena::Kind;
use self::run::{DRAINS_WITHIN, Extent, Run};
use self::schedules::Schedules;
use self::store::StoreKind;

/// The short play with schedulers.
const SCHEDULES: &str = "schedules";
/// The number of schedules in it.
const COUNT: usize = 50;

/// Breaks everything that can break while tasks run, and checks that none was lost.
#[derive(Debug, Parser)]
struct Arguments {
    /// The broker to test
    #[arg(long, value_enum, default_value = "sqlite")]
    broker: Kind,
    /// Store the results of all tasks there, and kill and restart it [default: those of few tasks, where the broker is]
    #[arg(long, value_enum)]
    store: Option<StoreKind>,
    /// How long to inject faults, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The same seed makes the same plan [default: a random one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// How many workers
    #[arg(long, default_value_t = 3)]
    workers: usize,
    /// How many producers
    #[arg(long, default_value_t = 2)]
    producers: usize,
    /// How many tasks that kill their worker
    #[arg(long, default_value_t = 1)]
    poison: usize,
    /// Milliseconds between two tasks of a producer
    #[arg(long, default_value_t = 40)]
    pause: u64,
    /// Tasks a second, of all producers together: most of them quick ones, and as many others as without it [default:
    /// as `--pause` says]
    #[arg(long, conflicts_with = "pause")]
    rate: Option<u32>,
    /// Test this many schedules, with three schedulers, instead of tasks
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["rate", "pause", "poison"])]
    schedules: Option<usize>,
    /// Seconds that a call may be late beyond a takeover of the schedulers; times the slowdown of this machine, which is
    /// measured
    #[arg(long, default_value_t = 2)]
    busy: u64,
    /// Perform this short play instead
    #[arg(long, value_parser = plays())]
    scenario: Option<String>,
    /// With a broker or a store of results that is broken in this way
    #[arg(long, value_parser = mutations())]
    mutation: Option<String>,
    /// Where the log and the output of the processes are kept [default: a temporary directory, kept after a violation]
    #[arg(long)]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    match std::env::var(players::ROLE).as_deref() {
        Ok("worker") => return work::main(),
        Ok(players::SCHEDULER) => return schedules::scheduler::main(),
        Ok("producer") => {
            producer::main();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let arguments = Arguments::parse();
    let temporary = support::temp_dir();
    let directory = match &arguments.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory).expect("the directory can be made");
            directory.canonicalize().expect("it was made")
        }
        None => temporary.path().to_owned(),
    };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let mut run = Run::new(arguments.broker, arguments.store, &directory, arguments.mutation.clone());
    let verdict = match (&arguments.scenario, arguments.schedules) {
        (Some(name), _) if name == SCHEDULES => {
            let on = Schedules::start(&mut run, arguments.schedules.unwrap_or(COUNT));
            let on = on.expect("the broker was just started");
            on.short_play().expect("the broker can be reached");
            on.finish(Duration::from_secs(arguments.busy)).into()
        }
        (Some(name), _) => scenario::perform(name, &mut run).into(),
        (None, Some(count)) => {
            println!("seed {seed}");
            let on = Schedules::start(&mut run, count.max(1)).expect("the broker was just started");
            on.play(seed, Duration::from_secs(arguments.seconds));
            on.finish(Duration::from_secs(arguments.busy)).into()
        }
        (None, None) => {
            println!("seed {seed}");
            run.play(Extent {
                seed,
                lasts: Duration::from_secs(arguments.seconds),
                workers: arguments.workers.max(1),
                producers: arguments.producers.max(1),
                poison: arguments.poison,
                pause: Duration::from_millis(arguments.pause),
                rate: arguments.rate,
            });
            // Load may have left a backlog.
            let backlog = arguments.rate.map_or(0, |_| arguments.seconds);
            run.finish(DRAINS_WITHIN + Duration::from_secs(backlog)).into()
        }
    };
    drop(run);
    report(&verdict, &arguments, seed);
    if verdict.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    if arguments.keep.is_none() {
        println!("the log and what the processes said: {}", temporary.keep().display());
    }
    ExitCode::FAILURE
}

/// The names of all plays.
fn plays() -> Vec<&'static str> {
    scenario::names().into_iter().chain([SCHEDULES]).collect()
}

/// The names of all mutations.
fn mutations() -> Vec<&'static str> {
    let of_brokers = mutation::names().into_iter().chain(schedules::broker::names());
    of_brokers.chain(bad_store::names()).collect()
}

/// The findings of a checker.
struct Found {
    violations: Vec<String>,
    /// A summary in one line.
    line: String,
}

impl From<check::Verdict> for Found {
    fn from(verdict: check::Verdict) -> Found {
        Found { violations: verdict.violations(), line: verdict.to_string() }
    }
}

impl From<schedules::Verdict> for Found {
    fn from(verdict: schedules::Verdict) -> Found {
        Found { violations: verdict.violations().to_vec(), line: verdict.to_string() }
    }
}

fn report(found: &Found, arguments: &Arguments, seed: u64) {
    /// The maximum number of violations printed of each kind.
    const SHOWN: usize = 12;
    let mut sorts = BTreeMap::<String, usize>::new();
    for violation in &found.violations {
        let sort = violation.split(':').next().unwrap_or_default().to_owned();
        let count = sorts.entry(sort).or_default();
        *count += 1;
        if *count <= SHOWN {
            println!("{violation}");
        }
    }
    for (sort, count) in sorts.into_iter().filter(|(_, count)| *count > SHOWN) {
        println!("{sort}: and {} more", count - SHOWN);
    }
    let what = arguments.scenario.clone().unwrap_or_else(|| format!("seed {seed}, {} s", arguments.seconds));
    println!("{:?} ({what}): {}", arguments.broker, found.line);
}
