//! The cost of a task from delivery to ack, in allocations and in instructions: unlike time, these are the same on every
//! machine.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use mq_worker::{App, Config, Worker, task};

/// The maximum number of allocations per task. Raise it only together with the reason.
const MOST: u64 = 6;
/// Instructions per task at the last release, in a debug build.
const BEFORE: f64 = 87_000.0;
/// Tolerances, since other compilers generate slightly different code.
const MORE: f64 = 1.1;
const LESS: f64 = 0.8;
/// These tasks run first, so that one-time growth is not measured.
const WARM_UP: u64 = 1_000;
const MEASURED: u64 = 1_000;
/// Extra tasks behind the measured ones: a queue that runs empty has other costs.
const AFTER: u64 = 200;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system allocator with a counter per thread.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

impl Counting {
    fn count() {
        // The counter of an exiting thread may already be gone.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything is forwarded to the system allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller upholds the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

static RUN: AtomicU64 = AtomicU64::new(0);
static BEGAN_WITH: AtomicU64 = AtomicU64::new(0);
static ENDED_WITH: AtomicU64 = AtomicU64::new(0);

#[task(queue = "allocations", ignore_result)]
async fn counted(n: u64) {
    std::hint::black_box(n);
    let now = ALLOCATIONS.get();
    match RUN.fetch_add(1, Ordering::Relaxed) + 1 {
        WARM_UP => BEGAN_WITH.store(now, Ordering::Relaxed),
        run if run == WARM_UP + MEASURED => ENDED_WITH.store(now, Ordering::Relaxed),
        _ => {}
    }
}

#[test]
fn a_task_costs_few_allocations() {
    drain(WARM_UP + MEASURED + AFTER, WARM_UP + MEASURED + AFTER);
    let each =
        (ENDED_WITH.load(Ordering::Relaxed) - BEGAN_WITH.load(Ordering::Relaxed)) as f64 / MEASURED as f64;
    eprintln!("{each:.2} allocations a task");
    // The tolerance is for lists that occasionally grow.
    assert!(each < MOST as f64 + 0.1, "{each:.2} allocations a task, {MOST} are allowed");
    assert!(each >= 1.0, "nothing was counted");
}

#[test]
fn a_task_costs_few_instructions() {
    let _beside_others = crate::beside_others();
    let few = instructions(WARM_UP);
    let many = instructions(WARM_UP + MEASURED);
    let each = (many - few) as f64 / MEASURED as f64;
    let ratio = each / BEFORE;
    eprintln!("{each:.0} instructions a task, {ratio:.3} of what they were");
    assert!(
        ratio <= MORE,
        "{each:.0} instructions a task; they were {BEFORE:.0}, and {MORE} times that are allowed"
    );
    assert!(
        ratio >= LESS,
        "{each:.0} instructions a task instead of {BEFORE:.0}: write that down, so that it is kept"
    );
}

/// Returns how many instructions a program executes that runs this many tasks.
fn instructions(tasks: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "allocations::runs_as_many_tasks_as_it_is_told", "--ignored", "--test-threads=1"])
        .env("MQ_TEST_TASKS", tasks.to_string())
        .output()
        .expect("valgrind is installed: `tests/run` does that");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stdout));
    // ==123== I   refs:      1,234,567
    let count = text.lines().find_map(|line| line.split_once("refs:")).expect("a count").1;
    count.replace(',', "").trim().parse().expect("a number")
}

#[test]
#[ignore = "it is what `a_task_costs_few_instructions` counts"]
fn runs_as_many_tasks_as_it_is_told() {
    let tasks = std::env::var("MQ_TEST_TASKS").expect("how many").parse().expect("a number");
    drain(WARM_UP + MEASURED, tasks);
}

/// Sends tasks and lets a worker run the given number of them. The others go to a queue that it does not consume from:
/// otherwise it would run a few more before it stops.
fn drain(sent: u64, tasks: u64) {
    let mut config =
        Config { broker_url: "memory://allocations".parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["allocations".into()];
    config.worker.control = false;
    config.worker.concurrency = 100;
    let app = App::new(config).expect("an application");
    // A single thread, so that its counter covers everything.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for n in 0..sent {
            let queue = if n < tasks { "allocations" } else { "allocations.left" };
            app.send(counted.with(n).queue(queue)).await.expect("sent");
        }
        let worker = Worker::new(app.clone()).expect("a worker");
        let handle = worker.handle();
        let stop = async {
            while RUN.load(Ordering::Relaxed) < tasks {
                tokio::task::yield_now().await;
            }
            handle.stop();
        };
        let (summary, ()) = tokio::join!(worker.run(), stop);
        assert!(summary.expect("the worker ran").succeeded >= tasks);
    });
}
