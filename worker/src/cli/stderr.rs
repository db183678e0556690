//! Writes to stderr: the log and all notes to people. It never fails and limits the time spent waiting for a slow reader:
//! a full disk, a closed pipe or a stalled pager loses log lines but harms no task. The number of lost lines is reported
//! as soon as stderr can be written again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one line may wait for a slow reader.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);
/// The program spends at most 1/`SHARE` of its time waiting for a reader.
const SHARE: u32 = 20;
/// A pipe that has room at all accepts this many bytes at once.
const PIECE: usize = 4096;

static IS_JSON: AtomicBool = AtomicBool::new(false);
static OUT: Mutex<Out> = Mutex::new(Out { lost: 0, is_partial: false, patience: LINE_TIMEOUT, looked: None });

/// The state of stderr and its reader.
struct Out {
    /// Lines that were lost and not reported yet.
    lost: u64,
    /// The last line was written only in part.
    is_partial: bool,
    /// How long to wait for the reader at most; grows back over time.
    patience: Duration,
    looked: Option<Instant>,
}

/// Writes each buffer as one line, or drops it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // The state is usable after a panic: ignore a poisoned lock.
        OUT.lock().unwrap_or_else(PoisonError::into_inner).line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reports lost lines as JSON, in the format of the log.
pub(super) fn use_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

impl Out {
    fn line(&mut self, line: &[u8]) {
        let now = Instant::now();
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.duration_since(looked));
        self.patience = (self.patience + passed / SHARE).min(LINE_TIMEOUT);
        self.looked = Some(now);
        if self.lost > 0 && self.try_write(lost_in_words(self.lost).as_bytes()) {
            self.lost = 0;
        }
        // Keep the order: write nothing before the lost lines are reported.
        if self.lost > 0 || !self.try_write(line) {
            self.lost += 1;
        }
    }

    /// Returns whether all of it was written.
    fn try_write(&mut self, line: &[u8]) -> bool {
        if self.is_partial && !self.pieces(b"\n") {
            return false;
        }
        self.is_partial = false;
        self.pieces(line)
    }

    fn pieces(&mut self, line: &[u8]) -> bool {
        let mut rest = line;
        while !rest.is_empty() {
            let waited = Instant::now();
            let has_room = os::has_room(self.patience);
            self.patience = self.patience.saturating_sub(waited.elapsed());
            match has_room.and_then(|()| os::write(&rest[..rest.len().min(PIECE)])) {
                Ok(written) if written > 0 => {
                    rest = &rest[written..];
                    self.is_partial = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        true
    }
}

fn lost_in_words(lost: u64) -> String {
    if IS_JSON.load(Ordering::Relaxed) {
        let now = chrono::Utc::now().to_rfc3339();
        let event = serde_json::json!({
            "timestamp": now, "level": "WARN", "message": "lines of the log were lost", "lost": lost,
        });
        format!("{event}\n")
    } else {
        format!("warning: {lost} lines of the log were lost here: stderr could not be written\n")
    }
}

#[cfg(unix)]
mod os {
    use std::io;
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;

    /// Waits until stderr can be written or has failed.
    pub(super) fn has_room(patience: Duration) -> io::Result<()> {
        let stderr = super::super::streams::log();
        let mut asked = [PollFd::from_borrowed_fd(stderr, PollFlags::OUT)];
        let patience = Timespec::try_from(patience).map_err(|_| Errno::INVAL)?;
        match poll(&mut asked, Some(&patience))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn write(bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(super::super::streams::log(), bytes)?)
    }
}

#[cfg(not(unix))]
mod os {
    use std::io::{self, Write};
    use std::time::Duration;

    pub(super) fn has_room(_: Duration) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn write(bytes: &[u8]) -> io::Result<usize> {
        io::stderr().write(bytes)
    }
}
