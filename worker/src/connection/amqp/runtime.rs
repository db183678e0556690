//! The two RabbitMQ threads of a process: one for all I/O, one for timers.
//!
//! Heartbeats, confirms and acks must continue while user code blocks its own runtime, or while a test's runtime shuts
//! down, so none of them may run on the caller's runtime. A wait for the I/O thread must not depend on that thread's
//! timers: if it is blocked, the clock thread ends the wait. The clock also serves callers whose executor has no
//! timers.

use std::future::Future;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{Sleep, Timeout};

use super::lock::lock;
use super::watchdog::WATCHDOG;
use crate::error::{Error, Result};

static IO: Mutex<Option<Handle>> = Mutex::new(None);
static CLOCK: OnceLock<Handle> = OnceLock::new();

/// The I/O runtime. The first call starts both threads, which live as long as the process.
pub(super) fn io() -> Result<Handle> {
    let mut io = lock(&IO);
    if let Some(handle) = &*io {
        return Ok(handle.clone());
    }
    let clock = match CLOCK.get() {
        Some(clock) => clock,
        None => {
            let clock = start("mq-worker-clock", Builder::new_current_thread().enable_time())?;
            CLOCK.get_or_init(|| clock)
        }
    };
    let handle = start("mq-worker-amqp", Builder::new_current_thread().enable_all())?;
    clock.spawn(WATCHDOG.watch(handle.clone(), Duration::from_secs(1)));
    *io = Some(handle.clone());
    Ok(handle)
}

fn start(name: &'static str, builder: &mut Builder) -> Result<Handle> {
    let failed = |error| Error::connection(format!("cannot start the thread `{name}`")).with_source(error);
    let runtime = builder.thread_name(name).build().map_err(failed)?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    thread::Builder::new().name(name.into()).spawn(run).map_err(failed)?;
    Ok(handle)
}

/// Limits the time of a future, on any executor, even while the I/O thread is blocked.
pub(crate) fn timeout<F: Future>(limit: Duration, future: F) -> Timeout<F> {
    let _clock = clock().enter();
    tokio::time::timeout(limit, future)
}

/// Like [`timeout`], with a deadline.
pub(crate) fn timeout_at<F: Future>(deadline: Instant, future: F) -> Timeout<F> {
    timeout(deadline.saturating_duration_since(Instant::now()), future)
}

/// Sleeps, on any executor.
pub(crate) fn sleep(duration: Duration) -> Sleep {
    let _clock = clock().enter();
    tokio::time::sleep(duration)
}

fn clock() -> &'static Handle {
    CLOCK.get().expect("it was started with the first connection")
}

/// Waits for the reply of a task; `None` if the task `ended` without one.
///
/// A command sent while its task is ending may stay unread in the channel, and its reply with it, for as long as there
/// are senders. So the end of the task is watched too; a reply sent just before it still counts.
pub(crate) async fn answer<T>(
    mut answer: oneshot::Receiver<T>,
    ended: impl Future<Output = ()>,
) -> Option<T> {
    tokio::select! {
        biased;
        answer = &mut answer => answer.ok(),
        () = ended => answer.try_recv().ok(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn a_command_that_nobody_reads_any_more_is_not_waited_for() {
        let (commands, inbox) = mpsc::channel(1);
        let (reply, receiver) = oneshot::channel::<()>();
        let permit = commands.reserve().await.expect("open");
        drop(inbox);
        permit.send(reply);
        let answered = tokio::time::timeout(Duration::from_secs(5), answer(receiver, commands.closed()));
        assert_eq!(answered.await, Ok(None));
    }

    #[tokio::test]
    async fn an_answer_that_came_before_the_end_counts() {
        let (reply, receiver) = oneshot::channel();
        let ended = async move { reply.send(7).expect("it is waited for") };
        assert_eq!(answer(receiver, ended).await, Some(7));
    }

    #[test]
    fn time_is_limited_without_a_runtime_and_without_the_io_thread() {
        let io = io().expect("threads");
        let (go_on, stopped) = std::sync::mpsc::channel::<()>();
        io.spawn(async move { stopped.recv() });
        let standing = io.spawn(async {});
        let limited = timeout(Duration::from_millis(50), standing);
        let runtime = Builder::new_current_thread().build().expect("a runtime without timers");
        runtime.block_on(limited).expect_err("the I/O thread stands still");
        drop(go_on);
    }
}
