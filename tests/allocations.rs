//! What a task costs between its delivery and its ack, in allocations: unlike time, they are the same on any machine.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use mq_worker::{App, Config, Worker, task};

/// At most so many allocations a task. Raise it only together with the reason.
const MOST: u64 = 9;
/// The tasks before these warm up what grows once.
const WARM_UP: u64 = 1_000;
const MEASURED: u64 = 1_000;
/// After the last one that is measured: a queue that runs empty is another story.
const AFTER: u64 = 200;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

impl Counting {
    fn count() {
        // A thread that ends has no counter any more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    }
}

// SAFETY: everything is the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps the contract.
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
    let mut config =
        Config { broker_url: "memory://allocations".parse().expect("a URL"), ..Config::default() };
    config.worker.queues = vec!["allocations".into()];
    config.worker.control = false;
    config.worker.concurrency = 100;
    let app = App::new(config).expect("an application");
    // On one thread, whose counter has everything.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for n in 0..WARM_UP + MEASURED + AFTER {
            app.send(counted.with(n)).await.expect("sent");
        }
        let worker = Worker::new(app.clone()).expect("a worker");
        let handle = worker.handle();
        let stop = async {
            while RUN.load(Ordering::Relaxed) < WARM_UP + MEASURED + AFTER {
                tokio::task::yield_now().await;
            }
            handle.stop();
        };
        let (summary, ()) = tokio::join!(worker.run(), stop);
        assert_eq!(summary.expect("the worker ran").succeeded, WARM_UP + MEASURED + AFTER);
    });
    let each =
        (ENDED_WITH.load(Ordering::Relaxed) - BEGAN_WITH.load(Ordering::Relaxed)) as f64 / MEASURED as f64;
    eprintln!("{each:.2} allocations a task");
    assert!(each <= MOST as f64, "{each:.2} allocations a task, {MOST} are allowed");
    assert!(each >= 1.0, "nothing was counted");
}
