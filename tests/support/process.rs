//! Real programs, run as a user would run them, with deadlines.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A running program. It and its children are killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: Arc<Output>,
    readers: Vec<thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    stdout: Vec<String>,
    stderr: Vec<String>,
    open: usize,
}

/// A program that has exited.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Process {
    /// Starts a program; its input is empty.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(command: &mut Command) -> Process {
        Self::spawn_with_input(command, b"")
    }

    /// Starts a program with an input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_with_input(command: &mut Command, input: &[u8]) -> Process {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::<Output>::default();
        output.lines.lock().expect("never poisoned").open = 2;
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("it was piped"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("it was piped"));
        let readers = vec![
            read_lines(stdout, &output, |lines| &mut lines.stdout),
            read_lines(stderr, &output, |lines| &mut lines.stderr),
        ];
        // A program may close its input without reading it.
        let _ = child.stdin.take().expect("it was piped").write_all(input);
        Process { child, name, output, readers }
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of either output that contains `text`, and returns it.
    ///
    /// # Panics
    /// When none comes in time, or the program exits before.
    pub fn wait_for_line(&self, text: &str, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        let mut lines = self.output.lines.lock().expect("never poisoned");
        loop {
            let found = lines.stdout.iter().chain(&lines.stderr).find(|line| line.contains(text)).cloned();
            if let Some(line) = found {
                return line;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || lines.open == 0 {
                let why = if lines.open == 0 { "it ended" } else { "time is over" };
                let (stdout, stderr) = (lines.stdout.join("\n"), lines.stderr.join("\n"));
                drop(lines);
                panic!(
                    "{}: no line with `{text}`, {why}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
                    self.name
                );
            }
            lines = self.output.more.wait_timeout(lines, left).expect("never poisoned").0;
        }
    }

    /// Returns its standard output and standard error so far.
    pub fn output_so_far(&self) -> (String, String) {
        let lines = self.output.lines.lock().expect("never poisoned");
        (lines.stdout.join("\n"), lines.stderr.join("\n"))
    }

    /// Sends a signal to it, but not to its children.
    ///
    /// # Panics
    /// When the program has already exited.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal)
            .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
    }

    /// Waits for it to exit.
    ///
    /// # Panics
    /// When it does not exit in time; it is then killed.
    pub fn wait(mut self, limit: Duration) -> Ended {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the state of a child") {
                break status;
            }
            if Instant::now() > deadline {
                let (stdout, stderr) = self.output_so_far();
                panic!(
                    "{} did not end within {limit:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
                    self.name
                );
            }
            thread::sleep(Duration::from_millis(5));
        };
        // A child may hold the output open; it is no longer needed.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let (stdout, stderr) = self.output_so_far();
        Ended { status, stdout, stderr }
    }

    /// Returns true while it runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the state of a child").is_none()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let (stdout, stderr) = self.output_so_far();
            eprintln!("{} said\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.name);
        }
        // Once it was reaped, its id may belong to another process.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn read_lines(
    from: Box<dyn Read + Send>,
    output: &Arc<Output>,
    into: fn(&mut Lines) -> &mut Vec<String>,
) -> thread::JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            into(&mut output.lines.lock().expect("never poisoned")).push(line);
            output.more.notify_all();
        }
        output.lines.lock().expect("never poisoned").open -= 1;
        output.more.notify_all();
    })
}
