//! The way to stderr, for the log and for every word to people. It never fails, and waits for a slow reader only now and
//! then: a full disk, a closed pipe or a pager that stands still costs lines of the log and harms no task. How many were
//! lost is said as soon as something can be written again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one line may wait for its reader.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of its time the program spends so much on waiting for a reader: one part in this many.
const SHARE: u32 = 20;
/// A pipe that has room at all takes so many bytes at once.
const PIECE: usize = 4096;

static IS_JSON: AtomicBool = AtomicBool::new(false);
static OUT: Mutex<Out> = Mutex::new(Out { lost: 0, is_torn: false, patience: PATIENCE, looked: None });

/// What is known of the reader.
struct Out {
    /// Lines that could not be written, and of which nothing was said yet.
    lost: u64,
    /// The last line was written in part.
    is_torn: bool,
    /// How long it may be waited for the reader; grows again with time.
    patience: Duration,
    looked: Option<Instant>,
}

/// Writes each buffer as one line, or loses it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // A poisoned lock is one that a panic left behind: nothing in here is worth another one.
        OUT.lock().unwrap_or_else(PoisonError::into_inner).line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was lost is said in the format of the log.
pub(super) fn speak_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

impl Out {
    fn line(&mut self, line: &[u8]) {
        let now = Instant::now();
        let passed = self.looked.map_or(Duration::ZERO, |looked| now.duration_since(looked));
        self.patience = (self.patience + passed / SHARE).min(PATIENCE);
        self.looked = Some(now);
        if self.lost > 0 && self.try_write(lost_in_words(self.lost).as_bytes()) {
            self.lost = 0;
        }
        // In their order: nothing is written before it is said what is missing.
        if self.lost > 0 || !self.try_write(line) {
            self.lost += 1;
        }
    }

    /// True when all of it was written.
    fn try_write(&mut self, line: &[u8]) -> bool {
        if self.is_torn && !self.pieces(b"\n") {
            return false;
        }
        self.is_torn = false;
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
                    self.is_torn = !rest.is_empty();
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

    /// Waits until something can be written, or surely cannot.
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
