//! Missing, damaged, replaced and read-only files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use mq_worker::backend::{self, BackendOptions, ResultRecord};

use super::*;

async fn refused(path: &Path) -> mq_worker::Error {
    match broker::open(&url(path), &options(Duration::from_secs(5))).await {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_refused_by_name_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let at = path.canonicalize().unwrap_or(dir.path().canonicalize().unwrap().join("jobs.db"));

    fs::write(
        &path,
        "this is a shopping list, long enough to have a header of a hundred bytes, which it has not, \
                      since it is a shopping list",
    )
    .unwrap();
    let error = refused(&path).await;
    assert!(error.is_storage() && error.to_string().contains("is not an SQLite database"), "{error:#}");
    assert!(error.to_string().contains(&at.display().to_string()), "{error:#}");
    assert!(fs::read_to_string(&path).unwrap().starts_with("this is a shopping list"));
    fs::remove_file(&path).unwrap();

    let foreign = rusqlite::Connection::open(&path).unwrap();
    foreign.execute_batch("CREATE TABLE customers (name TEXT)").unwrap();
    let error = refused(&path).await;
    assert!(error.is_storage() && error.to_string().contains("another program"), "{error:#}");
    drop(foreign);
    fs::remove_file(&path).unwrap();

    drop(open(&path).await);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    let error = refused(&path).await;
    assert!(error.is_storage() && error.to_string().contains("newer mq-worker"), "{error:#}");
    assert!(error.to_string().contains("schema 99") && error.to_string().contains("jobs.db"), "{error:#}");
}

#[tokio::test]
async fn a_damaged_file_is_an_error_and_not_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    {
        let broker = open(&path).await;
        declare(&*broker, Queue::new("q")).await;
        for index in 0..200 {
            publish(&*broker, "q", &format!("{index}-{}", "x".repeat(500))).await;
        }
        broker.close().await;
    }
    // The thread closes the file, and with it the log, after the last handle is dropped.
    until("the log is gone", async || !dir.path().join("jobs.db-wal").exists()).await;
    let mut bytes = fs::read(&path).unwrap();
    for (index, byte) in bytes.iter_mut().enumerate().skip(4096) {
        *byte = (index % 251) as u8;
    }
    fs::write(&path, bytes).unwrap();
    let error = match broker::open(&url(&path), &options(Duration::from_secs(5))).await {
        Err(error) => error,
        Ok(broker) => broker.publish(to_queue("q", "x")).await.expect_err("damaged"),
    };
    assert!(error.is_storage() && error.to_string().contains("jobs.db"), "{error:#}");
}

#[tokio::test]
async fn a_place_that_does_not_exist_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = refused(&dir.path().join("missing/jobs.db")).await;
    assert!(error.is_storage() && error.to_string().contains("missing"), "{error:#}");
    let error = refused(dir.path()).await;
    assert!(error.is_config() && error.to_string().contains("directory"), "{error:#}");
    let memory = "sqlite::memory:".parse().unwrap();
    let error = broker::open(&memory, &options(TIMEOUT)).await.map(drop).expect_err("no memory");
    assert!(error.is_config() && error.to_string().contains("memory://"), "{error:#}");
    // Once the mistake is corrected, the same name works.
    fs::create_dir(dir.path().join("missing")).unwrap();
    open(&dir.path().join("missing/jobs.db")).await;
}

/// Permissions do not apply to root, so if this runs as root the file is opened by `nobody`.
#[tokio::test]
async fn a_read_only_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    drop(open(&path).await);
    until("the file is closed", async || !dir.path().join("jobs.db-wal").exists()).await;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    let binary = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&binary);
    command
        .args(["roles::another_process", "--exact", "--nocapture"])
        .env("MQ_SQLITE_TEST_ROLE", "open")
        .env("MQ_SQLITE_TEST_FILE", &path)
        .env("MQ_SQLITE_TEST_QUEUE", "")
        .current_dir(dir.path());
    let is_root = fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap() == 0;
    if is_root {
        command.uid(65534).gid(65534);
    }
    let output = command.output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("read-only") && said.contains("jobs.db"), "{said}");
}

#[tokio::test]
async fn a_full_disk_refuses_messages_and_loses_none() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("LEFT OUT: a_full_disk_refuses_messages_and_loses_none: cannot mount a small tmpfs here");
        return;
    }
    let _unmount = Unmount(disk.clone());
    let broker = open(&disk.join("jobs.db")).await;
    declare(&*broker, Queue::new("q")).await;
    let block = "x".repeat(20_000);
    let mut stored = 0;
    let error = loop {
        match broker.publish(to_queue("q", &block)).await {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 1000, "the disk is never full");
    };
    assert!(error.is_storage() && error.to_string().contains("is full"), "{error:#}");
    assert!(stored > 10, "{stored}");
    assert_eq!(counts(&*broker, "q").await, Some((stored, 0, 0, 0)));
    // With free space the same broker works again.
    let mounted = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&disk).status();
    assert!(mounted.expect("mount").success());
    publish(&*broker, "q", "after").await;
    let mut consumer = consume(&*broker, &["q"], 100).await;
    for _ in 0..=stored {
        next(&mut consumer).await.ack();
    }
    consumer.control().flush().await;
    assert_eq!(counts(&*broker, "q").await, Some((0, 0, 0, 1)));
    broker.close().await;
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        // Lazily, since the thread may keep the file open slightly longer.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Ways to lose a file while it is open, and the resulting errors.
#[tokio::test]
async fn a_file_that_is_lost_while_it_is_open_takes_no_more_messages() {
    type Lose = fn(&Path);
    let beside = |path: &Path, suffix: &str| format!("{}{suffix}", path.display());
    fn other(path: &Path) -> std::path::PathBuf {
        path.with_file_name("other.db")
    }
    let cases: [(Lose, &str); 7] = [
        (|path| fs::remove_file(path).unwrap(), "was deleted or moved"),
        (|path| fs::rename(path, other(path)).unwrap(), "was deleted or moved"),
        (
            |path| fs::rename(path.parent().unwrap(), other(path.parent().unwrap())).unwrap(),
            "was deleted or moved",
        ),
        (
            |path| {
                fs::copy(path, other(path)).unwrap();
                fs::rename(other(path), path).unwrap();
            },
            "was replaced by another file",
        ),
        (|path| fs::File::options().write(true).open(path).unwrap().set_len(0).unwrap(), "was emptied"),
        (|path| fs::remove_file(format!("{}-wal", path.display())).unwrap(), "lost its `-wal` or `-shm`"),
        (|path| fs::remove_file(format!("{}-shm", path.display())).unwrap(), "lost its `-wal` or `-shm`"),
    ];
    for (lose, said) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("place")).unwrap();
        let path = dir.path().join("place/jobs.db").parent().unwrap().canonicalize().unwrap().join("jobs.db");
        let broker = open(&path).await;
        let results = BackendOptions { connect: options(TIMEOUT), expires: TIMEOUT };
        let results = backend::open(&url(&path), None, &results).await.expect("the file opens");
        declare(&*broker, Queue::new("q")).await;
        let mut consumer = consume(&*broker, &["q"], 1).await;
        publish(&*broker, "q", "safe").await;
        let held = next(&mut consumer).await;
        let waiting = {
            let results = Arc::clone(&results);
            tokio::spawn(async move {
                results.wait("some-id", mq_worker::backend::Awaited::Final).await.map(drop)
            })
        };
        assert!(consumer.control().is_attached() && consumer.control().loss().is_none());
        assert!(Path::new(&beside(&path, "-wal")).exists());

        lose(&path);
        for _ in 0..3 {
            let begun = std::time::Instant::now();
            let error = broker.publish(to_queue("q", "lost")).await.expect_err(said);
            assert!(begun.elapsed() < Duration::from_secs(1), "{said}");
            let text = error.to_string();
            assert!(error.is_connection() && text.contains(said), "{error:#}");
            assert!(text.contains(&path.display().to_string()) && text.contains("restart"), "{error:#}");
        }
        let error = broker.queues(&[]).await.expect_err("nothing is known of the queues");
        assert!(error.to_string().contains(said), "{error:#}");
        let record = ResultRecord::success("id", b"1".to_vec()).expect("JSON");
        let error = results.store(&record, None).await.expect_err("not stored");
        assert!(error.to_string().contains(said), "{error:#}");
        let error = waiting.await.expect("no panic").expect_err("nobody will answer");
        assert!(error.to_string().contains(said), "{error:#}");
        let control = consumer.control();
        assert!(!control.is_attached() && control.loss().is_some_and(|(_, why)| why.contains(said)));
        assert!(results.loss().is_some_and(|(_, why)| why.contains(said)));
        let error = refused_or_lost(&path).await;
        let is_told = error.contains(said) || error.contains("no directory");
        assert!(is_told, "who opens it in this process learns it too: {error}");
        held.ack();
    }
}

async fn refused_or_lost(path: &Path) -> String {
    match broker::open(&url(path), &options(Duration::from_secs(5))).await {
        Ok(_) => "it was opened".into(),
        Err(error) => format!("{error:#}"),
    }
}

#[tokio::test]
async fn a_file_that_is_put_back_is_used_again() {
    let (dir, broker) = fresh(&["q"]).await;
    let (path, away) = (dir.path().join("jobs.db"), dir.path().join("away.db"));
    let mut consumer = consume(&*broker, &["q"], 1).await;
    publish(&*broker, "q", "first").await;
    let held = next(&mut consumer).await;
    fs::rename(&path, &away).unwrap();
    broker.publish(to_queue("q", "lost")).await.expect_err("it is away");
    held.ack();
    fs::rename(&away, &path).unwrap();
    until("it is found again", async || consumer.control().is_attached()).await;
    publish(&*broker, "q", "second").await;
    let held = next(&mut consumer).await;
    assert_eq!(body(&held), "second", "the ack was kept, and what was refused is not there");
    held.ack();
}

#[tokio::test]
async fn a_link_that_leads_elsewhere_is_another_file() {
    let (dir, _kept) = fresh(&["q"]).await;
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(dir.path().join("jobs.db"), &link).unwrap();
    let other = tempfile::tempdir().unwrap();
    let blue = other.path().join("blue.db");
    std::os::unix::fs::symlink(&blue, other.path().join("current.db")).unwrap();
    fs::write(&blue, "").unwrap();
    let broker = open(&other.path().join("current.db")).await;
    declare(&*broker, Queue::new("q")).await;
    publish(&*broker, "q", "safe").await;
    fs::remove_file(other.path().join("current.db")).unwrap();
    fs::rename(&link, other.path().join("current.db")).unwrap();
    let error = broker.publish(to_queue("q", "lost")).await.expect_err("others use another file now");
    assert!(error.to_string().contains("was replaced by another file"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_the_path_of_a_moved_file_names_the_problem() {
    let (dir, broker) = fresh(&["q"]).await;
    publish(&*broker, "q", "safe").await;
    let path = dir.path().join("jobs.db");
    fs::rename(&path, dir.path().join("away.db")).unwrap();
    let mut other = roles::Process::start("open", &path, "");
    let said = tokio::task::block_in_place(|| other.line()).expect("it says something");
    assert!(said.contains("does not go with") && said.contains("was it moved"), "{said}");
}
