//! The tasks for the tests of time limits and isolation.
//!
//! A task with a file argument writes its process id into the file when it starts, and more lines as it proceeds.

use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use mq_worker::{Context, SharedState, TaskError, setup, task};
use serde::{Deserialize, Serialize};

/// Created once per process.
pub(crate) struct Greeting(pub(crate) String);

#[setup]
fn prepare(state: &mut SharedState) {
    state.insert(Greeting(format!("hello from {}", std::process::id())));
}

/// Fails before the first task, if the test asks for it.
#[setup]
async fn prepare_wrongly(_state: &mut SharedState) {
    let Ok(how) = std::env::var("TEST_SETUP") else { return };
    eprintln!("the set-up does not end");
    match how.as_str() {
        "waits" => std::future::pending().await,
        "blocks" => std::thread::sleep(Duration::from_secs(1000)),
        "panics apart" if std::env::var_os("MQ_ISOLATED").is_none() => {}
        _ => panic!("not today"),
    }
}

/// The parts of a call that its task can see.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) id: String,
    pub(crate) retries: u32,
    pub(crate) queue: String,
    pub(crate) header: Option<String>,
    pub(crate) greeting: String,
    pub(crate) pid: u32,
    pub(crate) argument: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "tasks do")]
fn facts(ctx: &Context, argument: Vec<String>) -> Facts {
    println!("printed by a task");
    Facts {
        id: ctx.id().into(),
        retries: ctx.retries(),
        queue: ctx.queue().into(),
        header: ctx.headers().get_str("x-test").map(Into::into),
        greeting: ctx.state::<Greeting>().0.clone(),
        pid: std::process::id(),
        argument,
    }
}

#[task(isolate)]
pub(crate) async fn facts_async(ctx: &Context, argument: Vec<String>) -> Facts {
    facts(ctx, argument)
}

#[task(isolate, memory_limit = "1GB")]
pub(crate) fn facts_plain(ctx: &Context, argument: Vec<String>) -> Facts {
    facts(ctx, argument)
}

#[task]
pub(crate) async fn pid() -> u32 {
    std::process::id()
}

/// Sends another task, and waits for it.
#[task(isolate)]
pub(crate) async fn ask(ctx: &Context) -> Result<u32, TaskError> {
    let job = pid.with().queue(ctx.queue()).send().await?;
    Ok(job.get().timeout(Duration::from_secs(30)).await?)
}

#[task(isolate, max_retries = 1, backoff = "1ms..5ms")]
pub(crate) async fn fail(ctx: &Context, how: String) -> Result<u32, TaskError> {
    match how.as_str() {
        "first" if ctx.retries() == 0 => Err(TaskError::failed("not yet")),
        "first" => Ok(ctx.retries()),
        "panic" => panic!("boom"),
        _ => Err(TaskError::reject("no")),
    }
}

/// Appends a line to the file, usually the id of the process that the task runs in.
fn note(file: &Path, line: impl std::fmt::Display) {
    let mut file = std::fs::File::options().create(true).append(true).open(file).expect("a file");
    // In a single write, since others write concurrently.
    file.write_all(format!("{line}\n").as_bytes()).expect("written");
}

fn sleeper() -> Child {
    Command::new("sleep").arg("1000").spawn().expect("`sleep` is there")
}

fn for_ever() -> ! {
    loop {
        black_box(());
    }
}

/// Never gives its processor back, and has a child.
#[task(isolate, time_limit = "1s", max_retries = 0)]
pub(crate) fn spin_apart(file: PathBuf) {
    note(&file, sleeper().id());
    note(&file, std::process::id());
    for_ever();
}

/// The same, until somebody else ends it.
#[task(isolate, max_retries = 0)]
pub(crate) async fn spin_on(file: PathBuf) {
    note(&file, sleeper().id());
    note(&file, std::process::id());
    for_ever();
}

/// Never gives its thread back.
#[task(time_limit = "200ms", max_retries = 0)]
pub(crate) fn spin_inside() {
    for_ever();
}

/// Gives its thread back long after its limit: when the file is there.
#[task(time_limit = "200ms", max_retries = 0)]
pub(crate) fn oversleep(file: PathBuf) -> String {
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    "too late".into()
}

#[task(isolate, soft_time_limit = "200ms", time_limit = "50s", max_retries = 0)]
pub(crate) async fn told_async(ctx: &Context) -> String {
    ctx.cancelled().await;
    "told".into()
}

/// Listens, and says why it was told to stop.
#[task(isolate, max_retries = 0)]
pub(crate) async fn told_why(ctx: &Context, file: PathBuf) -> String {
    note(&file, "began");
    ctx.cancelled().await;
    if ctx.is_revoked() { "revoked".into() } else { "out of time".into() }
}

/// The same in a plain function, which takes its time when it is told to stop, until it hears that nobody wants it.
#[task(isolate, soft_time_limit = "200ms", time_limit = "60s", max_retries = 0)]
pub(crate) fn told_twice(ctx: &Context, file: PathBuf) -> bool {
    note(&file, "began");
    until_told(ctx);
    let at_first = ctx.is_revoked();
    note(&file, "told");
    while !ctx.is_revoked() {
        std::thread::sleep(Duration::from_millis(5));
    }
    at_first
}

#[task(soft_time_limit = "200ms", max_retries = 0)]
pub(crate) fn told_plain(ctx: &Context) -> String {
    until_told(ctx)
}

/// Has no limit of its own.
#[task(max_retries = 0)]
pub(crate) fn told_by_message(ctx: &Context) -> String {
    until_told(ctx)
}

fn until_told(ctx: &Context) -> String {
    while !ctx.is_cancelled() {
        std::thread::sleep(Duration::from_millis(5));
    }
    "told".into()
}

/// Takes its process down.
#[task(isolate, max_retries = 7, backoff = "1ms..5ms")]
pub(crate) fn die(file: PathBuf, how: String) {
    note(&file, std::process::id());
    match how.as_str() {
        "abort" => std::process::abort(),
        "exit" => std::process::exit(3),
        "overflow" => drop(black_box(deep(1))),
        signal => {
            let id = std::process::id().to_string();
            let _ = Command::new("kill").args(["-s", signal, &id]).status();
            for_ever();
        }
    }
}

#[allow(unconditional_recursion, reason = "that is the point")]
fn deep(n: u64) -> [u64; 1000] {
    let mut below = deep(black_box(n + 1));
    below[0] += n;
    black_box(below)
}

/// Takes its process down, and asks to run at most once.
#[task(isolate, ack = "early")]
pub(crate) fn die_once(file: PathBuf) {
    note(&file, std::process::id());
    std::process::abort();
}

/// Takes and touches so much memory.
#[task(isolate, memory_limit = "256MiB", max_retries = 0, backoff = "1ms..5ms")]
pub(crate) fn hoard(mebibytes: usize) -> usize {
    let memory = black_box(vec![1_u8; mebibytes << 20]);
    memory.len() >> 20
}

/// Writes one line.
#[task]
pub(crate) fn note_once(file: PathBuf, line: String) {
    note(&file, line);
}

#[allow(clippy::print_stdout, reason = "tasks do")]
fn print() -> String {
    for line in 0..100 {
        println!("printed by a task: {line}");
        eprintln!("said by a task: {line}");
    }
    "printed".into()
}

#[task(max_retries = 0)]
pub(crate) fn print_inside() -> String {
    print()
}

#[task(isolate, max_retries = 0)]
pub(crate) fn print_apart() -> String {
    print()
}

/// Logs one line, in whichever way it runs.
#[task]
pub(crate) async fn log_async() {
    tokio::task::yield_now().await;
    tracing::info!("logged by a task");
}

#[task]
pub(crate) fn log_plain() {
    tracing::info!("logged by a task");
}

#[task(isolate)]
pub(crate) async fn log_apart() {
    tracing::info!("logged by a task");
}

/// Takes all file handles that this process may have, and holds them until the file is gone.
#[task]
pub(crate) async fn hold_all_handles(file: PathBuf) {
    note(&file, std::process::id());
    let handles: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    while file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(handles);
}

/// Ends when the file is gone.
#[task(isolate)]
pub(crate) async fn wait(file: PathBuf) -> String {
    note(&file, std::process::id());
    while file.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    "ended well".into()
}

/// Reports its progress from its process, and sends a call.
#[task(isolate, queue = "unused")]
pub async fn report(ctx: &Context) -> Result<(), TaskError> {
    for n in 1..=3 {
        ctx.progress(n, 3, format!("in {}", std::process::id()));
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    }
    ctx.set_state("LAST", ctx.queue())?;
    pid.with().queue(ctx.queue()).send().await?;
    Ok(())
}
