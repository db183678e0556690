//! `#[task(isolate)]`: what a task sees in its own process, and how it is kept from doing harm.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mq_worker::{SharedState, State, Worker};
use rustix::process::{Pid, Signal, kill_process};
use support::places::{Running, everywhere};
use support::{Process, unique, within};

use super::lab::{LONG, all_gone, failure_of, lines, on_real_brokers, on_sqlite, processes};
use super::tasks::{
    Greeting, ask, die, die_once, facts_async, facts_plain, fail, hoard, hold_all_handles, pid, report,
    spin_apart, spin_on, told_twice, told_why, wait,
};

#[test]
fn a_call_has_a_process_of_its_own_and_is_otherwise_like_any_other() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&[]);
        let inside = lab.result(pid.with()).await;
        assert_eq!(inside, worker.id());
        // More than a socket buffer holds, in both directions.
        let long: Vec<String> = (0..100_000).map(|n| format!("item {n}")).collect();
        let job = lab.send(facts_async.with(long.clone()).header("x-test", "given")).await;
        let facts = job.get().timeout(LONG).await.expect("a result");
        assert_eq!((&*facts.id, facts.retries, &facts.queue), (job.id(), 0, &lab.place.queue));
        assert_eq!((facts.header.as_deref(), facts.argument), (Some("given"), long));
        assert_ne!(facts.pid, inside, "another process");
        assert_eq!(facts.greeting, format!("hello from {}", facts.pid), "set up there");
        assert_ne!(lab.result(facts_plain.with(Vec::new())).await.pid, facts.pid, "each has its own");
        assert_eq!(lab.result(ask.with()).await, inside, "it may send tasks");
        worker.wait_for_line("printed by a task", LONG);
        assert_eq!(worker.output_so_far().0, "", "the worker's stdout is data");
    });
}

#[test]
fn a_call_reports_from_its_process_what_it_does() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&[]);
        let job = lab.send(report.with()).await;
        let (mut seen, mut updates) = (Vec::new(), job.updates());
        while let Some(update) = within("an update", LONG, updates.next()).await {
            seen.push(update.expect("the backend answers"));
        }
        let progress: Vec<_> = seen.iter().filter_map(|info| info.progress()).collect();
        assert!(progress.len() >= 2 && progress.iter().all(|one| one.total == 3), "{seen:?}");
        assert_ne!(progress[0].description, format!("in {}", worker.id()));
        let last = seen.last().expect("the end");
        assert_eq!((last.state(), last.children().len()), (&State::Success, 1));
    });
}

#[test]
fn a_call_learns_whether_it_is_revoked_or_out_of_time() {
    on_real_brokers(async |lab| {
        let _worker = lab.worker(&[]);
        let file = lab.file("why");
        let job = lab.send(told_why.with(file.clone())).await;
        lines(&file, 1);
        job.revoke().await.expect("revoked");
        assert_eq!(job.get().timeout(LONG).await.expect("a result"), "revoked", "{}", lab.place.name);

        let call = told_why.with(lab.file("slow")).soft_time_limit(Duration::from_millis(200));
        assert_eq!(lab.result(call).await, "out of time", "{}", lab.place.name);

        let file = lab.file("twice");
        let job = lab.send(told_twice.with(file.clone())).await;
        lines(&file, 2);
        job.revoke().await.expect("revoked");
        let revoked_at_first = job.get().timeout(LONG).await.expect("a result");
        assert!(!revoked_at_first, "{}: it was out of time, and nobody had revoked it", lab.place.name);
    });
}

#[test]
fn errors_and_panics_are_what_they_are_elsewhere() {
    on_sqlite(async |lab| {
        let _worker = lab.worker(&[]);
        assert_eq!(lab.result(fail.with("first")).await, 1);
        assert_eq!(lab.failure(fail.with("panic")).await, ("Panic".into(), "boom".into()));
        assert_eq!(lab.failure(fail.with("reject")).await, ("Rejected".into(), "no".into()));
    });
}

#[test]
fn a_loop_without_end_is_killed_at_its_time_limit_with_all_that_it_started() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&["--concurrency", "1"]);
        let file = lab.file("pids");
        let (kind, _) = lab.failure(spin_apart.with(file.clone())).await;
        assert_eq!(kind, "TimeLimitExceeded", "{}", lab.place.name);
        all_gone(&processes(&file, 2));
        // The only slot is free again.
        assert_eq!(lab.result(pid.with()).await, worker.id());
    });
}

#[test]
fn a_crash_harms_no_other_task_and_the_third_one_dead_letters_without_spending_retries() {
    on_real_brokers(async |lab| {
        let worker = lab.worker(&[]);
        let (stay, neighbour) = (lab.file("stay"), lab.file("neighbour"));
        fs::write(&stay, "").expect("a file");
        let beside = lab.send(wait.with(stay.clone())).await;
        lines(&stay, 1);
        let ways = [("abort", "SIGABRT"), ("KILL", "SIGKILL"), ("exit", "exit code 3"), ("overflow", "SIG")];
        for (way, said) in ways {
            let file = lab.file(way);
            let (kind, text) = lab.failure(die.with(file.clone(), way)).await;
            assert_eq!(kind, "WorkerLostError", "{way} on {}", lab.place.name);
            assert!(text.contains(said), "{way}: {text}");
            assert_eq!(lines(&file, 3).len(), 3, "{way} on {}", lab.place.name);
        }
        lab.failure(die_once.with(neighbour.clone())).await;
        assert_eq!(lines(&neighbour, 1).len(), 1, "at most once");
        fs::remove_file(&stay).expect("removed");
        assert_eq!(beside.get().timeout(LONG).await.expect("unharmed"), "ended well");
        assert_eq!(lab.result(pid.with()).await, worker.id(), "the worker lives");
        let broker = lab.app.broker().await.expect("a broker");
        while let Some(dead) = broker.get(&lab.place.dead()).await.expect("an answer") {
            assert_eq!(dead.message.headers.get_str("mq-dead-reason"), Some("crashed"));
            assert_eq!(dead.message.headers.retries(), 0);
            dead.ack();
        }
    });
}

#[test]
fn memory_beyond_the_limit_is_a_crash_that_names_it() {
    on_sqlite(async |lab| {
        let _worker = lab.worker(&[]);
        assert_eq!(lab.result(hoard.with(64)).await, 64);
        let (kind, text) = lab.failure(hoard.with(512)).await;
        assert_eq!(kind, "WorkerLostError");
        assert!(text.contains("`memory_limit`, 268435456 bytes"), "{text}");
        assert_eq!(lab.result(hoard.with(64)).await, 64);
    });
}

#[test]
fn nothing_outlives_a_worker_that_is_killed() {
    on_sqlite(async |lab| {
        let worker = lab.worker(&[]);
        let file = lab.file("pids");
        lab.send(spin_on.with(file.clone())).await;
        let running = processes(&file, 2);
        kill_process(Pid::from_raw(worker.id().cast_signed()).expect("not zero"), Signal::KILL)
            .expect("killed");
        all_gone(&running);
    });
}

#[test]
fn a_main_of_its_own_needs_one_line() {
    on_sqlite(async |lab| {
        let _worker = Process::spawn(&mut lab.command(env!("CARGO_BIN_EXE_isolated-own-main")));
        let inside = lab.result(pid.with()).await;
        assert_ne!(lab.result(facts_async.with(Vec::new())).await.pid, inside);
    });
}

#[test]
fn a_worker_whose_file_was_replaced_still_starts_its_own_version() {
    on_sqlite(async |lab| {
        let original = Path::new(env!("CARGO_BIN_EXE_isolated-worker"));
        let deployed = original.with_file_name(unique("deployed"));
        fs::hard_link(original, &deployed).expect("a second name");
        let _worker = Process::spawn(lab.command(deployed.to_str().expect("a plain name")).args(["-c", "1"]));
        let inside = lab.result(pid.with()).await;
        // The next version is missing, or is another program.
        fs::remove_file(&deployed).expect("removed");
        assert_ne!(lab.result(facts_async.with(Vec::new())).await.pid, inside);
    });
}

#[test]
fn a_program_that_cannot_isolate_says_so_and_a_test_may_do_without() {
    everywhere(async |place| {
        let app = place.app();
        let error = Worker::new(app.clone()).expect("a worker").run().await.expect_err("not here");
        assert!(error.is_config() && error.to_string().contains("mq_worker::run_isolated()"), "{error}");
        let mut state = SharedState::default();
        state.insert(Greeting("made by a test".into()));
        let running = Running::start(app.clone(), state);
        let job = app.send(facts_plain.with(Vec::new()).queue(&place.queue)).await.expect("sent");
        let facts = job.get().timeout(LONG).await.expect("a result");
        assert_eq!((facts.pid, &*facts.greeting), (std::process::id(), "made by a test"));
        let job = app.send(fail.with("reject").queue(&place.queue)).await.expect("sent");
        assert_eq!(failure_of(job.get().timeout(LONG).await.map(drop)).0, "Rejected");
        running.stop().await;
    });
}

#[test]
#[ignore = "a measurement: run it with --release"]
fn measure_what_a_process_costs() {
    on_sqlite(async |lab| {
        const MANY: u32 = 300;
        let _worker = lab.worker(&["--concurrency", "1", "--log-level", "warn"]);
        lab.result(pid.with()).await;
        let begun = Instant::now();
        for _ in 0..MANY {
            lab.result(pid.with()).await;
        }
        let inside = begun.elapsed() / MANY;
        let begun = Instant::now();
        for _ in 0..MANY {
            lab.result(facts_plain.with(Vec::new())).await;
        }
        eprintln!("one after the other: {inside:?} in the worker, {:?} apart", begun.elapsed() / MANY);
    });
}

/// A missing process is not the task's fault.
#[test]
fn a_task_whose_process_cannot_be_started_waits_and_spends_nothing() {
    on_sqlite(async |lab| {
        let mut command = lab.command("sh");
        command.args(["-c", "ulimit -n 100; exec \"$0\"", env!("CARGO_BIN_EXE_isolated-worker")]);
        let worker = Process::spawn(&mut command);
        let file = lab.file("stay");
        lab.send(hold_all_handles.with(file.clone())).await;
        lines(&file, 1);
        let job = lab.send(facts_async.with(Vec::new())).await;
        worker.wait_for_line("cannot start the task on this worker now", LONG);
        std::fs::remove_file(&file).expect("removed");
        let facts = job.get().timeout(LONG).await.expect("a result");
        assert_eq!(facts.retries, 0);
        worker.signal(Signal::TERM);
        let ended = worker.wait(LONG);
        assert!(!ended.stderr.contains("will be retried"), "{}", ended.stderr);
    });
}

/// This is an error of the program, not a crash of the worker.
#[test]
fn a_set_up_that_panics_in_the_process_of_a_task_is_the_failure_of_that_task() {
    on_sqlite(async |lab| {
        let mut command = lab.command(env!("CARGO_BIN_EXE_isolated-worker"));
        let _worker = Process::spawn(command.env("TEST_SETUP", "panics apart"));
        let (kind, text) = lab.failure(fail.with("set-up")).await;
        assert_eq!(kind, "Error", "{text}");
        assert!(text.contains("prepare_wrongly` panicked: not today"), "{text}");
    });
}
