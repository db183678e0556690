//! What a broker stores besides messages: registers and locks.

use std::time::Duration;

use futures_util::future::join_all;
use mq_worker::broker::{Lock, Locked, Note, Register};

use super::super::lab::{LIMIT, Lab};

const HOUR: Duration = Duration::from_secs(3600);

pub(crate) async fn a_reader_of_notes_resumes_where_it_left_off(lab: &Lab) {
    let (writer, reader) = (lab.open().await, lab.open().await);
    let before = reader.notes(Register::Revoked, 0).await.expect("notes").next;
    let ids: Vec<String> = (0..3).map(|index| lab.name(&format!("revoked-{index}"))).collect();
    let read = async |from| {
        let notes = reader.notes(Register::Revoked, from).await.expect("notes");
        // Other tests on the same server add notes too.
        let mine = notes.notes.into_iter().map(|note| note.id).filter(|id| ids.contains(id));
        (mine.collect::<Vec<_>>(), notes.next)
    };
    for id in &ids[..2] {
        writer.note(Register::Revoked, &Note::new(id, HOUR)).await.expect("noted");
    }
    let (found, next) = read(before).await;
    assert_eq!(found, ids[..2]);
    writer.note(Register::Revoked, &Note::new(&ids[2], HOUR)).await.expect("noted");
    assert_eq!(read(next).await.0, ids[2..], "only what is new");
    assert_eq!(read(0).await.0, ids, "and all from the beginning");
    // A reader may have to ask again for the most recent notes, and gets each one once.
    let (mut from, mut found) = (next, Vec::new());
    for round in 0..20 {
        let newer = reader.newer_notes(Register::Revoked, from).await.expect("notes");
        from = newer.next;
        found.extend(newer.notes.into_iter().map(|note| note.id).filter(|id| ids.contains(id)));
        if round >= 1 && !found.is_empty() {
            break;
        }
    }
    assert_eq!(found, ids[2..]);
}

pub(crate) async fn a_note_is_known_to_every_connection_until_it_lapses(lab: &Lab) {
    let (writer, reader) = (lab.open().await, lab.open().await);
    let (short, long) = (lab.name("short"), lab.name("long"));
    assert!(!reader.is_noted(Register::Done, &long, HOUR).await.expect("an answer"));
    for (id, lifetime) in [(&short, Duration::from_secs(2)), (&long, HOUR)] {
        writer.note(Register::Done, &Note::new(id, lifetime)).await.expect("noted");
    }
    let asked = join_all((0..20).map(|_| reader.is_noted(Register::Done, &long, HOUR))).await;
    assert!(asked.into_iter().all(|answer| answer.expect("an answer")));
    let other = reader.is_noted(Register::Revoked, &long, HOUR).await.expect("an answer");
    assert!(!other, "one register knows nothing of the other");
    let deadline = tokio::time::Instant::now() + LIMIT;
    while reader.is_noted(Register::Done, &short, HOUR).await.expect("an answer") {
        assert!(tokio::time::Instant::now() < deadline, "it never lapses");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub(crate) async fn a_forced_note_stays_forced(lab: &Lab) {
    let (writer, reader) = (lab.open().await, lab.open().await);
    let (early, late, never) = (lab.name("early"), lab.name("late"), lab.name("never"));
    let note = async |id: &str, terminate| {
        let note = Note { terminate, ..Note::new(id, HOUR) };
        writer.note(Register::Revoked, &note).await.expect("noted");
    };
    let forced = async |from| {
        let notes = reader.notes(Register::Revoked, from).await.expect("notes");
        let mut mine: Vec<String> = Vec::new();
        for Note { id, terminate, .. } in notes.notes {
            if terminate && [&early, &late, &never].contains(&&id) && !mine.contains(&id) {
                mine.push(id);
            }
        }
        (mine, notes.next)
    };
    note(&early, true).await;
    for id in [&early, &late, &never] {
        note(id, false).await;
    }
    let (found, next) = forced(0).await;
    assert_eq!(found, [early.as_str()], "what came later without force took it away");
    note(&late, true).await;
    assert_eq!(forced(next).await.0, [late.as_str()], "a reader that goes on gets it");
    assert_eq!(forced(0).await.0, [early.as_str(), late.as_str()]);
}

fn lock(lab: &Lab, holder: &str, lifetime: Duration) -> Lock {
    Lock { key: lab.name("key"), holder: holder.to_owned(), lifetime }
}

pub(crate) async fn a_lock_has_one_holder_at_a_time(lab: &Lab) {
    let (one, two) = (lab.open().await, lab.open().await);
    let [first, second] = ["task-1", "task-2"].map(|holder| lock(lab, holder, HOUR));
    assert_eq!(one.lock(&first).await.expect("an answer"), Locked::Taken);
    assert_eq!(one.lock(&first).await.expect("an answer"), Locked::Taken, "it is its own already");
    assert_eq!(two.lock(&second).await.expect("an answer"), Locked::Held(Some("task-1".into())));
    two.unlock(&second).await.expect("no error: it is somebody else's, and stays");
    assert_eq!(two.lock(&second).await.expect("an answer"), Locked::Held(Some("task-1".into())));
    two.unlock(&first).await.expect("the name of the holder opens it");
    assert_eq!(two.lock(&second).await.expect("an answer"), Locked::Taken);
    one.unlock(&second).await.expect("opened");
    one.unlock(&second).await.expect("no error: it is open");
}

pub(crate) async fn a_lock_for_another_time_is_the_same_lock(lab: &Lab) {
    let broker = lab.open().await;
    let [first, second] = ["task-1", "task-2"].map(|holder| lock(lab, holder, HOUR));
    let [brief_first, brief_second] =
        [&first, &second].map(|lock| Lock { lifetime: Duration::from_secs(60), ..lock.clone() });
    assert_eq!(broker.lock(&first).await.expect("an answer"), Locked::Taken);
    assert_eq!(broker.lock(&brief_second).await.expect("an answer"), Locked::Held(Some("task-1".into())));
    assert_eq!(broker.lock(&brief_first).await.expect("an answer"), Locked::Taken, "it is its own already");
    broker.unlock(&brief_first).await.expect("opened");
    assert_eq!(broker.lock(&brief_second).await.expect("an answer"), Locked::Taken);
    broker.unlock(&second).await.expect("opened");
}

pub(crate) async fn a_forgotten_lock_opens_by_itself(lab: &Lab) {
    let broker = lab.open().await;
    let lifetime = Duration::from_secs(2);
    let [first, second] = ["task-1", "task-2"].map(|holder| lock(lab, holder, lifetime));
    assert_eq!(broker.lock(&first).await.expect("an answer"), Locked::Taken);
    let begun = tokio::time::Instant::now();
    while broker.lock(&second).await.expect("an answer") != Locked::Taken {
        assert!(begun.elapsed() < LIMIT, "it never opens");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() >= lifetime - Duration::from_millis(100), "it opened too early");
    broker.unlock(&second).await.expect("opened");
}

pub(crate) async fn a_lock_is_kept_by_its_holder_through_a_wait(lab: &Lab) {
    let (broker, lifetime) = (lab.open().await, Duration::from_secs(2));
    let named = |key: &str, holder: &str| Lock { key: lab.name(key), ..lock(lab, holder, lifetime) };
    let [short, long] = ["short", "long"].map(|key| named(key, "task-1"));
    let taken = async |lock: &Lock| broker.lock(lock).await.expect("an answer") == Locked::Taken;
    assert!(taken(&short).await && taken(&long).await);
    for wait in [HOUR, 2 * HOUR, Duration::MAX, Duration::from_secs(1)] {
        assert_eq!(broker.extend_lock(&long, wait).await.expect("an answer"), Locked::Taken, "{wait:?}");
    }
    // Extend it step by step beyond its lifetime, which two other locks measure.
    for clock in ["first", "second"] {
        let clocks = [named(clock, "task-1"), named(clock, "task-2")];
        assert!(taken(&clocks[0]).await);
        let begun = tokio::time::Instant::now();
        while !taken(&clocks[1]).await {
            assert!(begun.elapsed() < LIMIT, "it never opens");
            let kept = broker.extend_lock(&short, Duration::from_millis(500)).await.expect("an answer");
            assert_eq!(kept, Locked::Taken);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for key in ["short", "long"] {
        let (mine, other) = (named(key, "task-1"), named(key, "task-2"));
        let held = Locked::Held(Some("task-1".into()));
        assert_eq!(broker.lock(&other).await.expect("an answer"), held, "{key}");
        assert_eq!(broker.extend_lock(&other, HOUR).await.expect("an answer"), held, "{key}");
        broker.unlock(&mine).await.expect("opened");
        // Without a holder, the one that tries to keep the lock takes it.
        assert_eq!(broker.extend_lock(&other, HOUR).await.expect("an answer"), Locked::Taken, "{key}");
        assert!(!taken(&mine).await, "{key}");
        broker.unlock(&other).await.expect("opened");
    }
}

pub(crate) async fn of_many_contenders_one_gets_the_lock(lab: &Lab) {
    let brokers = [lab.open().await, lab.open().await];
    let wanted: Vec<Lock> = (0..40).map(|index| lock(lab, &format!("task-{index}"), HOUR)).collect();
    let answers =
        join_all(wanted.iter().enumerate().map(|(index, lock)| brokers[index % 2].lock(lock))).await;
    let answers: Vec<Locked> = answers.into_iter().map(|answer| answer.expect("an answer")).collect();
    let taken: Vec<usize> = (0..40).filter(|index| answers[*index] == Locked::Taken).collect();
    assert_eq!(taken.len(), 1, "{answers:?}");
    let holder = Locked::Held(Some(wanted[taken[0]].holder.clone()));
    assert_eq!(answers.iter().filter(|answer| **answer == holder).count(), 39, "{answers:?}");
    brokers[0].unlock(&wanted[taken[0]]).await.expect("opened");
}

pub(crate) async fn a_pause_is_read_without_a_trace_and_ended_by_a_later_note(lab: &Lab) {
    let (writer, reader) = (lab.open().await, lab.open().await);
    let (first, second) = (lab.name("queue:first"), lab.name("queue:second"));
    let read = async || {
        let notes = reader.newer_notes(Register::Paused, 0).await.expect("notes").notes;
        let now = chrono::Utc::now();
        // The last note about an id counts; other tests on the same server add notes too.
        let mut ends = std::collections::BTreeMap::new();
        ends.extend(notes.into_iter().map(|note| (note.id, note.until)));
        ends.retain(|id, until| *until > now && (*id == first || *id == second));
        ends.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(read().await, [] as [String; 0], "also where nothing was ever noted");
    let year = HOUR * 24 * 365;
    for id in [&first, &second] {
        writer.note(Register::Paused, &Note::new(id, year)).await.expect("noted");
    }
    assert_eq!(read().await, [first.clone(), second.clone()]);
    let ended = Note { until: chrono::DateTime::UNIX_EPOCH, ..Note::new(&first, HOUR) };
    writer.note(Register::Paused, &ended).await.expect("noted");
    assert_eq!(read().await, std::slice::from_ref(&second));
    writer.note(Register::Paused, &Note::new(&first, HOUR)).await.expect("noted");
    assert_eq!(read().await, [first.clone(), second.clone()]);
}
