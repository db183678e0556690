//! The tasks and the worker process: `mq-worker`'s own `main` with these tasks linked in.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;

use mq_worker::{App, Context, TaskError, Worker, task};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::log::{Death, Event, How, Log};
use crate::{bad_store, mutation};

/// The `max_retries` of the tasks: see the attributes below.
pub(crate) const MAX_RETRIES: u32 = 3;

/// Set for a worker that quarantines messages in its own process, like one that cannot start its program again.
pub(crate) const IN_PROCESS: &str = "FAULTS_IN_PROCESS";

static LOG: OnceLock<Log> = OnceLock::new();

/// Returns the log of this process, as the control set it up in the environment. An isolated run is logged under the id of
/// its worker: a fault that hits the worker hits the run too.
pub(crate) fn log() -> &'static Log {
    LOG.get_or_init(|| {
        log_of(std::env::var("MQ_ISOLATED").unwrap_or_else(|_| std::process::id().to_string()))
    })
}

fn log_of(pid: impl Display) -> Log {
    let name = std::env::var("FAULTS_NAME").expect("the control gives a name");
    Log::open(&path(), format!("{name}/{pid}"))
}

fn path() -> PathBuf {
    std::env::var_os("FAULTS_LOG").expect("the control names the log").into()
}

/// The worker process.
pub(crate) fn main() -> ExitCode {
    let builder = match (mutation::of_this_process(), bad_store::of_this_process()) {
        (Some(wrap), _) => Some(App::builder().wrap_broker(wrap)),
        (None, Some(wrap)) => Some(App::builder().wrap_backend(wrap)),
        (None, None) => None,
    };
    if let Some(builder) = builder {
        builder.install().expect("the control has set a good configuration");
    }
    if std::env::var_os(IN_PROCESS).is_none() {
        return mq_worker::main();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).expect("signals can be received");
        let worker = Worker::new(App::global()?)?.without_isolation();
        let handle = worker.handle();
        tokio::spawn(async move {
            stop.recv().await;
            handle.stop();
        });
        worker.run().await
    });
    done.map_or(ExitCode::FAILURE, |_| ExitCode::SUCCESS)
}

/// One run of a task in the log.
struct Run<'a>(&'a Context);

impl Run<'_> {
    fn begin(context: &Context) -> Run<'_> {
        let (id, attempt) = (context.id().to_owned(), context.retries());
        log().write(Event::Start { id, attempt, crashes: context.headers().crashes() });
        Run(context)
    }

    fn end(self, how: How) {
        log().write(Event::End { id: self.0.id().to_owned(), attempt: self.0.retries(), how });
    }
}

/// Succeeds at once.
#[task(name = "faults.quick", ignore_result)]
pub(crate) async fn quick(ctx: &Context) {
    Run::begin(ctx).end(How::Succeeded);
}

/// Succeeds after a while.
#[task(name = "faults.slow", ignore_result)]
pub(crate) async fn slow(ctx: &Context, millis: u64) {
    let run = Run::begin(ctx);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    run.end(How::Succeeded);
}

/// The same, on a blocking thread.
#[task(name = "faults.blocking", ignore_result)]
pub(crate) fn blocking(ctx: &Context, millis: u64) {
    let run = Run::begin(ctx);
    std::thread::sleep(Duration::from_millis(millis));
    run.end(How::Succeeded);
}

/// Fails once, then succeeds.
#[task(name = "faults.flaky", max_retries = 3, backoff = "200ms..2s", ignore_result)]
pub(crate) async fn flaky(ctx: &Context) -> Result<(), TaskError> {
    let run = Run::begin(ctx);
    if ctx.retries() == 0 {
        run.end(How::Failed);
        return Err(TaskError::failed("the first time always fails"));
    }
    run.end(How::Succeeded);
    Ok(())
}

/// Fails for good.
#[task(name = "faults.reject", ignore_result)]
pub(crate) async fn reject(ctx: &Context) -> Result<(), TaskError> {
    Run::begin(ctx).end(How::Refused);
    Err(TaskError::reject("never"))
}

/// Has a result.
#[task(name = "faults.value")]
pub(crate) async fn value(ctx: &Context, number: u64) -> u64 {
    let run = Run::begin(ctx);
    run.end(How::Succeeded);
    number + 1
}

/// Takes its process down, in another way at each crash.
#[task(name = "faults.poison", ignore_result)]
pub(crate) async fn poison(ctx: &Context, first: u64) {
    let _ = Run::begin(ctx);
    let death = Death::number(first + deaths_before(ctx.id()));
    // Under the id of this process, isolated or not: its worker survives if this is not the worker.
    log_of(std::process::id()).write(Event::Crash { id: ctx.id().to_owned(), death });
    die(death);
}

/// Returns how often the task has crashed, according to the log: the crash count of a message depends on the broker.
fn deaths_before(id: &str) -> u64 {
    let log = std::fs::read_to_string(path()).expect("the log can be read");
    let crash = format!(" crash {id} ");
    log.lines().filter(|line| line.contains(&crash)).count() as u64
}

/// How much more memory than now a process may take.
const ALLOWANCE: u64 = 128 << 20;
/// The size of one allocation.
const PIECE: usize = 16 << 20;

fn die(death: Death) -> ! {
    match death {
        Death::Abort => std::process::abort(),
        Death::Exit => std::process::exit(Death::CODE),
        Death::Kill => {
            let _ = kill_process(getpid(), Signal::KILL);
        }
        Death::Memory => {
            let bytes = Some(address_space() + ALLOWANCE);
            setrlimit(Resource::As, Rlimit { current: bytes, maximum: bytes })
                .expect("a process may lower its own limit");
            fill(usize::MAX);
        }
        Death::OomKiller => {
            // Enough to be noticed without harm to the machine.
            let filled = fill(PIECE * 4);
            let killer = Command::new("kill").args(["-KILL", &std::process::id().to_string()]).status();
            drop((filled, killer));
        }
    }
    // The signal may arrive with a delay.
    loop {
        std::thread::park();
    }
}

/// Allocates this much memory, piece by piece.
fn fill(bytes: usize) -> Vec<Vec<u8>> {
    (0..bytes / PIECE).map(|_| vec![1; PIECE]).collect()
}

/// Returns the size of this process's address space in bytes.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process may read about itself");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.strip_suffix("kB"));
    size.and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok()).expect("it has a size") << 10
}
