//! Guards the standard streams of a worker against the loss of their reader: a closed terminal, or a `tee` that received
//! the same Ctrl-C. What tasks print is then discarded, instead of making `println!` panic.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::stdio::{dup2_stderr, dup2_stdout, stderr, stdout};

/// How often to check whether a lost reader is back: a named pipe may get another one.
const LOOK: Duration = Duration::from_secs(1);

/// The original stderr.
static LOG: OnceLock<OwnedFd> = OnceLock::new();

/// Returns the stream for the log: the original stderr.
pub(super) fn log() -> BorrowedFd<'static> {
    match LOG.get() {
        Some(log) => log.as_fd(),
        None => stderr(),
    }
}

/// Starts watching the streams. If that is impossible, they stay as they are.
pub(super) fn shield() {
    let Ok(mut streams) = Stream::standard() else { return };
    let watch = move || while Stream::watch(&mut streams).is_ok() {};
    // The thread ends with the process.
    let _ = std::thread::Builder::new().name("mq-worker-streams".into()).spawn(watch);
}

/// Stdout or stderr.
struct Stream {
    /// The original stream.
    original: OwnedFd,
    nowhere: OwnedFd,
    redirect: fn(&OwnedFd) -> rustix::io::Result<()>,
    is_broken: bool,
}

impl Stream {
    fn standard() -> std::io::Result<[Self; 2]> {
        let nowhere = OwnedFd::from(File::options().write(true).open("/dev/null")?);
        // Use a descriptor beyond the standard streams, one of which may be closed.
        let original = |stream: BorrowedFd<'_>| fcntl_dupfd_cloexec(stream, 3);
        let [out, err] = [original(stdout())?, original(stderr())?];
        if LOG.get().is_none() {
            let _ = LOG.set(err.try_clone()?);
        }
        Ok([
            Self {
                original: out,
                nowhere: nowhere.try_clone()?,
                redirect: |to| dup2_stdout(to),
                is_broken: false,
            },
            Self { original: err, nowhere, redirect: |to| dup2_stderr(to), is_broken: false },
        ])
    }

    /// Waits until a reader goes away or comes back, and redirects its stream.
    fn watch(streams: &mut [Self; 2]) -> rustix::io::Result<()> {
        let look = Timespec::try_from(LOOK).map_err(|_| Errno::INVAL)?;
        if streams.iter().all(|stream| stream.is_broken) {
            std::thread::sleep(LOOK);
        } else {
            // Without flags, only errors and hang-ups end the wait.
            let whole = streams.iter().filter(|stream| !stream.is_broken);
            let mut whole: Vec<_> =
                whole.map(|stream| PollFd::new(&stream.original, PollFlags::empty())).collect();
            let any_broken = whole.len() < streams.len();
            match poll(&mut whole, any_broken.then_some(&look)) {
                Err(Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        for stream in streams {
            let is_broken = stream.has_lost_its_reader();
            if is_broken != stream.is_broken {
                (stream.redirect)(if is_broken { &stream.nowhere } else { &stream.original })?;
                stream.is_broken = is_broken;
            }
        }
        Ok(())
    }

    fn has_lost_its_reader(&self) -> bool {
        let mut asked = [PollFd::new(&self.original, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok_and(|count| count > 0)
    }
}
