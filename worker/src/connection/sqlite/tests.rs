//! Tests of what cannot be provoked from outside, such as failing transactions.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::claim::{ClaimEnd, Claimed};
use super::claims::flush;
use super::engine::{Engine, now_ms};
use super::job::{self, Job, Order, Run};
use super::messages::Publishing;
use super::thread;
use crate::error::Result;
use crate::routing::{Queue, Topology};

type Reply = oneshot::Receiver<Result<()>>;

fn engine(dir: &tempfile::TempDir) -> Engine {
    let path: Arc<std::path::Path> = dir.path().join("jobs.db").into();
    let mut engine =
        Engine::open(Arc::clone(&path), &path, Instant::now() + Duration::from_secs(5), Weak::new())
            .expect("it opens");
    let topology = Topology::of_queue(Queue::new("q"));
    let declare =
        job::write("declare", move |engine, now, changes| engine.declare(1, &topology, now, changes));
    done(&mut engine, declare);
    engine
}

fn publish(body: &[u8]) -> (Order, Reply) {
    let publishing = Publishing {
        exchange: String::new(),
        routing_key: "q".into(),
        head: None,
        body: Bytes::copy_from_slice(body),
        priority: 0,
        expiration: None,
        delay: None,
        mandatory: true,
    };
    super::publish(publishing).order(None)
}

fn done<T: Send + 'static>(engine: &mut Engine, job: Job<T, impl Run<T>>) -> T {
    let (order, mut answer) = job.order(None);
    assert!(thread::transact(engine, vec![order]).is_none());
    answer.try_recv().expect("answered").expect("done")
}

fn get(engine: &mut Engine) -> Option<Claimed> {
    done(engine, super::get(1, "q".into(), 1)).pop()
}

/// `(ready, running)`.
fn counts(engine: &mut Engine) -> (u64, u64) {
    let counts = engine.count(&[], now_ms()).expect("countable");
    (counts[0].ready, counts[0].running)
}

#[test]
fn a_failing_publish_does_not_fail_its_batch() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = engine(&dir);
    let trigger = "CREATE TRIGGER picky BEFORE INSERT ON message WHEN length(new.body) > 1000
                   BEGIN SELECT RAISE(ABORT, 'too much'); END";
    engine.db.execute_batch(trigger).expect("a trigger");
    let bodies = [vec![1; 10], vec![2; 5000], vec![3; 10], vec![4; 5000], vec![5; 10]];
    let (orders, answers): (Vec<_>, Vec<_>) = bodies.iter().map(|body| publish(body)).unzip();
    assert!(thread::transact(&mut engine, orders).is_none());
    let outcomes: Vec<bool> =
        answers.into_iter().map(|mut answer| answer.try_recv().expect("answered").is_ok()).collect();
    assert_eq!(outcomes, [true, false, true, false, true]);
    assert_eq!(counts(&mut engine), (3, 0));
    for expected in [1, 3, 5] {
        assert_eq!(get(&mut engine).expect("one").message.body[0], expected);
    }
}

#[test]
fn a_full_disk_fails_publishes_and_keeps_verdicts() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = engine(&dir);
    for _ in 0..3 {
        let (order, _answer) = publish(b"x");
        assert!(thread::transact(&mut engine, vec![order]).is_none());
    }
    let held = [get(&mut engine).expect("one"), get(&mut engine).expect("another")];
    let pages: i64 = engine.db.pragma_query_value(None, "page_count", |row| row.get(0)).expect("pages");
    engine.db.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).expect("a limit");
    engine.verdicts.push((held[0].tag, ClaimEnd::Ack));
    let (orders, answers): (Vec<_>, Vec<_>) =
        [publish(&[0; 100_000]), publish(&[0; 200_000])].into_iter().unzip();
    let refused = thread::transact(&mut engine, orders);
    assert!(refused.is_none(), "everybody is answered");
    for mut answer in answers {
        let error = answer.try_recv().expect("answered").expect_err("full");
        assert!(error.is_storage() && error.to_string().contains("is full"), "{error:#}");
    }
    assert_eq!(engine.verdicts, [(held[0].tag, ClaimEnd::Ack)], "a verdict was lost");
    assert_eq!(counts(&mut engine), (1, 2));
    // The verdict itself needs no room.
    done(&mut engine, flush());
    assert!(engine.verdicts.is_empty());
    assert_eq!(counts(&mut engine), (1, 1));
}

/// The check before a batch is too early for a file that is deleted while the batch is written.
#[cfg(unix)]
#[test]
fn a_commit_into_a_file_that_was_deleted_meanwhile_is_no_success() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = engine(&dir);
    std::fs::remove_file(&engine.path).expect("it is there");
    let (orders, answers): (Vec<_>, Vec<_>) = [publish(b"one"), publish(b"two")].into_iter().unzip();
    assert!(thread::transact(&mut engine, orders).is_none());
    for mut answer in answers {
        let error = answer.try_recv().expect("answered").expect_err("nobody will read it");
        assert!(error.is_unknown() && error.to_string().contains("was deleted"), "{error:#}");
    }
}

#[test]
fn messages_for_a_caller_that_gave_up_are_requeued() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut engine = engine(&dir);
    let (one, _answer) = publish(b"x");
    assert!(thread::transact(&mut engine, vec![one]).is_none());
    let (gone, answer) = super::get(1, "q".into(), 1).order(None);
    drop(answer);
    assert!(thread::transact(&mut engine, vec![gone]).is_none());
    assert!(engine.has_chores(), "the claim has to go back");
    assert!(thread::transact(&mut engine, Vec::new()).is_none());
    assert_eq!(counts(&mut engine), (1, 0));
    let again = get(&mut engine).expect("one");
    assert_eq!((again.crashes, again.redelivered), (0, true));
}

#[test]
fn the_first_messages_are_found_without_reading_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let engine = engine(&dir);
    let plan = |sql: &str| -> String {
        let mut statement = engine.db.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("SQL");
        let rows = statement.query_map([], |row| row.get::<_, String>(3)).expect("a plan");
        rows.collect::<rusqlite::Result<Vec<_>>>().expect("a plan").join("; ")
    };
    let delete = plan("DELETE FROM ready WHERE queue = 1 AND (rank, id) <= (2, 3)");
    assert!(delete.contains("(queue=? AND (rank,id)<(?,?))"), "{delete}");
    let select = plan(
        "SELECT * FROM ready r CROSS JOIN message m ON m.id = r.id WHERE r.queue = 1 ORDER BY r.rank, r.id LIMIT 9",
    );
    assert!(!select.contains("SCAN") && !select.contains("TEMP B-TREE"), "{select}");
}
