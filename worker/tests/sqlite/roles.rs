//! The other processes of these tests: the test binary again, in a role. They print lines that start with `@`.

use std::io::{BufRead, BufReader, Lines};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use mq_worker::backend::{self, BackendOptions, ResultRecord};

use super::*;

const ROLE: &str = "MQ_SQLITE_TEST_ROLE";
const FILE: &str = "MQ_SQLITE_TEST_FILE";
const QUEUE: &str = "MQ_SQLITE_TEST_QUEUE";

/// A process that is killed on drop.
pub(super) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    pub(super) fn start(role: &str, file: &Path, queue: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["roles::another_process", "--exact", "--nocapture"])
            .env(ROLE, role)
            .env(FILE, file)
            .env(QUEUE, queue)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, lines }
    }

    /// Returns its next line.
    pub(super) fn line(&mut self) -> Option<String> {
        self.lines.by_ref().map_while(Result::ok).find_map(|line| Some(line.strip_prefix('@')?.to_owned()))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    /// Sends SIGKILL and waits for the exit.
    pub(super) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ran");
    }

    pub(super) fn wait(mut self) {
        while self.line().is_some() {}
        assert!(self.child.wait().expect("it ran").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a role to completion.
pub(super) fn run(role: &str, file: &Path, queue: &str) {
    Process::start(role, file, queue).wait();
}

pub(super) fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()
}

fn say(line: impl std::fmt::Display) {
    // One write for the whole line: the test harness prints to the same stream.
    use std::io::Write;
    let _ = std::io::stdout().write_all(format!("\n@{line}\n").as_bytes());
}

/// Not a test: the entry point of the other processes.
#[test]
fn another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let file = PathBuf::from(std::env::var_os(FILE).expect("a file"));
    let queue = std::env::var(QUEUE).expect("a queue");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(play(&role, &file, &queue));
}

async fn play(role: &str, file: &Path, queue: &str) {
    match role {
        // Takes messages and holds them; acks all on SIGUSR1.
        "hold" => {
            let broker = open(file).await;
            let mut consumer = consume(&*broker, &[queue], 2).await;
            let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::user_defined1())
                .expect("a handler");
            say("ready");
            let mut held = Vec::new();
            loop {
                tokio::select! {
                    delivery = consumer.next() => {
                        let delivery = delivery.expect("open");
                        say(format!("{} {} {}", body(&delivery), delivery.redelivered, delivery.crashes.unwrap()));
                        held.push(delivery);
                    }
                    _ = signal.recv() => {
                        held.drain(..).for_each(Delivery::ack);
                        consumer.control().flush().await;
                        say("acknowledged");
                    }
                }
            }
        }
        // Prints and acks what it gets, and exits on the message `stop`.
        "work" => {
            let broker = open(file).await;
            let mut consumer = consume(&*broker, &[queue], 10).await;
            say("ready");
            loop {
                let delivery = next(&mut consumer).await;
                let text = body(&delivery);
                delivery.ack();
                if text == "stop" {
                    break;
                }
                say(text);
            }
            broker.close().await;
        }
        // Publishes forever, several messages at once, and prints what was confirmed.
        "publish" => {
            let broker = open(file).await;
            for round in 0.. {
                let texts: Vec<String> = (0..8).map(|caller| format!("{round}-{caller}")).collect();
                let all = texts.iter().map(|text| publish(&*broker, queue, text));
                futures_util::future::join_all(all).await;
                texts.iter().for_each(say);
            }
        }
        // Prints the latency of each message in microseconds.
        "time" => {
            let broker = open(file).await;
            let mut consumer = consume(&*broker, &[queue], 1).await;
            say("ready");
            while let Some(delivery) = consumer.next().await {
                say(micros().saturating_sub(body(&delivery).parse().expect("a time")));
                delivery.ack();
            }
        }
        "purge" => drop(open(file).await.purge(queue).await.expect("purged")),
        "store" => {
            let connect = options(TIMEOUT);
            let options = BackendOptions { connect, expires: TIMEOUT };
            let backend = backend::open(&url(file), None, &options).await.expect("the file opens");
            let record = ResultRecord::success(queue, b"\"from afar\"".to_vec()).expect("JSON");
            backend.store(&record, None).await.expect("stored");
        }
        // Prints the result of opening the file.
        "open" => match broker::open(&url(file), &options(TIMEOUT)).await {
            Ok(_) => say("opened"),
            Err(error) => say(format!("{error:#}")),
        },
        other => panic!("no such role: {other}"),
    }
}
