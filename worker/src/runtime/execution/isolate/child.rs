//! The process of one call: receives it from its worker, runs it, replies and exits.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getpgrp, kill_process_group, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::wire::{self, IsolatedCall, REVOKE, Reply};
use super::{MARK, is_scarcity};
use crate::app::App;
use crate::message::Message;
use crate::panics::{keep_traces, text_of};
use crate::runtime::admission::request::arguments;
use crate::runtime::execution::call;
use crate::runtime::execution::ended::Ended;
use crate::task::context;
use crate::task::registry::{StartError, run_setup};
use crate::task::{Context, Registry, SharedState, TaskError, Work};
use crate::traces::{self, Step};

/// The pause between two reports of the task.
const PAUSE: Duration = Duration::from_millis(100);
/// Limit for closing the broker and for sending the last spans: neither may hold up the result.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the one call that this process was started for, and exits.
pub(super) fn run_task_and_exit() -> ! {
    let code = match answer() {
        Ok(()) => 0,
        Err(problem) => {
            let _ = writeln!(io::stderr(), "error: the process of an isolated task: {problem}");
            1
        }
    };
    std::process::exit(code)
}

fn answer() -> Result<(), String> {
    let worker = std::env::var(MARK).unwrap_or_default();
    if worker != std::os::unix::process::parent_id().to_string() {
        return Err(format!(
            "its worker {worker} has exited; or {MARK} was inherited: a task that starts this program removes it"
        ));
    }
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = UnixStream::from(socket.map_err(|error| format!("no standard input: {error}"))?);
    // A temporary shortage is not the task's failure. Reply to the worker before the problem is printed: a stalled reader of
    // stderr would keep it from seeing the end.
    let report = |problem: Problem| {
        let reply = if problem.is_scarcity { Reply::NotStarted } else { Reply::Crashed };
        let _ = wire::write(&socket, &reply(problem.text.clone()), &[]);
        problem.text
    };
    // On its own thread: `main` may run in an async runtime, within which another one cannot block.
    std::thread::scope(|scope| {
        let serving = std::thread::Builder::new().spawn_scoped(scope, || serve(&socket));
        let serving = serving.map_err(|error| Problem::of("cannot start a thread", &error))?;
        serving.join().unwrap_or_else(|panic| Err(Problem::from(format!("it panicked: {}", text_of(panic)))))
    })
    .map_err(report)
}

/// Why a process cannot run its call.
struct Problem {
    text: String,
    /// True when the system is temporarily out of some resource.
    is_scarcity: bool,
}

impl Problem {
    fn of(what: &str, error: &io::Error) -> Self {
        Self { text: format!("{what}: {error}"), is_scarcity: is_scarcity(error) }
    }
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self { text, is_scarcity: false }
    }
}

fn serve(socket: &UnixStream) -> Result<(), Problem> {
    let failed = |what: &'static str| move |error: io::Error| Problem::of(what, &error);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed("cannot start the async runtime"))?;
    // Ignore signals: only the worker decides when to stop, while a service manager may signal every process of a service.
    let ignored =
        async { [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal) };
    let _ignored = runtime.block_on(ignored);
    wire::write(socket, &Reply::Begun, &[]).map_err(failed("cannot reply to the worker"))?;
    // Processes that the task starts must not hold the socket, or read from it.
    let nothing = File::open("/dev/null").map_err(failed("cannot open /dev/null"))?;
    rustix::stdio::dup2_stdin(nothing).map_err(|error| format!("cannot close standard input: {error}"))?;
    let (call, body) = wire::read::<IsolatedCall>(socket).map_err(failed("cannot read the call"))?;
    let orders = Arc::new(StopRequests::default());
    let (line, given) = (socket.try_clone().map_err(failed("no second socket"))?, Arc::clone(&orders));
    // Ends with the process.
    let listener = std::thread::Builder::new().spawn(move || listen(line, &given));
    listener.map_err(failed("cannot start a thread"))?;
    // Last: from here on, only the task can exceed the limit.
    if let Some(bytes) = call.memory_limit {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Data, limit).map_err(|error| format!("cannot limit its memory: {error}"))?;
    }
    let ended = runtime.block_on(async {
        let ended = run(call, body, &orders, socket).await;
        if let Some(app) = App::installed() {
            let _ = tokio::time::timeout(GOODBYE, app.close()).await;
        }
        // Before the reply: once the worker has it, it kills this process.
        let _ = tokio::time::timeout(GOODBYE, traces::flush()).await;
        ended
    });
    let _ = io::stdout().flush();
    let (reply, body) = Reply::of(ended);
    wire::write(socket, &reply, &body).map_err(|error| format!("cannot reply to the worker: {error}").into())
}

/// Orders from the worker so far, which may arrive before the call is ready.
#[derive(Default)]
struct StopRequests {
    cancelled: CancellationToken,
    revoked: AtomicBool,
    context: OnceLock<Context>,
}

impl StopRequests {
    fn give(&self, order: u8) {
        if order == REVOKE {
            self.revoked.store(true, Ordering::SeqCst);
            self.tell_if_revoked();
        } else {
            self.cancelled.cancel();
        }
    }

    /// Sets the call. Whichever comes second, the order or the call, sees the first.
    fn begin(&self, context: &Context) {
        let _ = self.context.set(context.clone());
        self.tell_if_revoked();
    }

    fn tell_if_revoked(&self) {
        if let Some(context) = self.context.get().filter(|_| self.revoked.load(Ordering::SeqCst)) {
            context.revoke();
        }
    }
}

/// Waits for orders to stop, and for the death of the worker.
fn listen(mut worker: UnixStream, orders: &StopRequests) {
    let mut order = [0];
    while let Ok(1) = worker.read(&mut order) {
        orders.give(order[0]);
    }
    // The worker is dead and another one will run the message: kill this process with everything it started.
    let _ = kill_process_group(getpgrp(), Signal::KILL);
    std::process::abort();
}

async fn run(call: IsolatedCall, body: Vec<u8>, orders: &StopRequests, worker: &UnixStream) -> Ended {
    let step = Step::of(&call.trace);
    let (work, context) = match prepare(call, body, orders).await {
        Ok(prepared) => prepared,
        Err(ended) => return ended,
    };
    keep_traces();
    let ended = tokio::select! {
        biased;
        ended = call::execute(work, &context, step) => ended,
        () = report(&context, worker) => unreachable!("it reports for ever"),
    };
    pass_on(&context, worker);
    let children = context.reports().children();
    if !children.is_empty() {
        let _ = wire::write(worker, &Reply::Sent(children), &[]);
    }
    ended
}

/// Passes on the task's reports, no more often than the worker would write them.
async fn report(context: &Context, worker: &UnixStream) {
    loop {
        context.reports().news().await;
        pass_on(context, worker);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Passes on the latest report. Errors do not matter: without its worker this process is killed anyway.
fn pass_on(context: &Context, worker: &UnixStream) {
    if let Some((number, report)) = context.reports().unwritten() {
        let _ = wire::write(worker, &Reply::State(report.state.into()), report.meta.get().as_bytes());
        context.reports().written(number);
    }
}

async fn prepare(call: IsolatedCall, body: Vec<u8>, orders: &StopRequests) -> Result<(Work, Context), Ended> {
    let failed = |error: TaskError| Ended::Erred(error);
    let mut shared = SharedState::default();
    run_setup(&mut shared).await.map_err(|error| failed(error.into()))?;
    let registry = Registry::collect().map_err(|error| failed(error.into()))?;
    let task = registry.get(&call.task);
    let task =
        task.ok_or_else(|| failed(TaskError::failed(format!("its process knows no task `{}`", call.task))))?;
    let IsolatedCall {
        id, queue, exchange, routing_key, redelivered, headers, properties, result_types, ..
    } = call;
    let context = Context::new(context::Call {
        task: task.name,
        given_id: Some(id),
        queue: queue.into(),
        exchange,
        routing_key,
        redelivered,
        message: Message { properties, headers, body: body.into() },
        shared,
        stopping: orders.cancelled.clone().into(),
        result_types,
    });
    orders.begin(&context);
    let body = arguments(&context).map_err(|problem| failed(TaskError::reject(problem)))?;
    match task.begin(context.clone(), body.arguments) {
        Ok(work) => Ok((work.into_inner(), context)),
        Err(StartError::Refused(error)) => Err(Ended::Erred(TaskError::reject(error))),
        Err(StartError::Panicked(text)) => Err(Ended::Panicked(text.into())),
    }
}
