//! Pauses between two tries to take the lock of a file that another process holds.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

/// How often the lock is tried before the thread looks at its inbox again, about 20 ms in total.
const TRIES: i32 = 60;
/// Up to this many processes retry at full rate. With more, retries would take processor time from the process that holds
/// the lock, so each retries less often.
const FEW: usize = 4;

thread_local! {
    /// The factor for the pauses of this thread. Thread-local, since SQLite's callback gets nothing but the number of tries.
    static SLOWDOWN: Cell<i32> = const { Cell::new(1) };
}

/// Sets how many processes work on the file of this thread.
pub(super) fn share_lock_with(processes: usize) {
    SLOWDOWN.set(slowdown(processes));
}

fn slowdown(processes: usize) -> i32 {
    i32::try_from(processes / FEW).unwrap_or(TRIES).clamp(1, TRIES / 6)
}

/// Pauses before the next try, or returns false if there have been enough. SQLite's own busy timeout sleeps up to 100 ms at a
/// time, but a writer here holds the lock for about 1 ms.
pub(super) fn wait_for_lock(tries: i32) -> bool {
    let Some(micros) = pause(tries, SLOWDOWN.get()) else { return false };
    // Random, so that processes that failed together do not retry together.
    thread::sleep(Duration::from_micros(fastrand::u64(micros / 2..=micros * 3 / 2)));
    true
}

/// The mean pause after so many tries, in microseconds.
fn pause(tries: i32, slowdown: i32) -> Option<u64> {
    (tries < TRIES / slowdown).then(|| u64::from((slowdown * (1 + tries.min(3))).unsigned_abs()) * 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_processes_retry_less_often_and_look_at_their_inboxes_as_often() {
        for (processes, tries) in [(1, 60), (7, 60), (8, 30), (20, 12), (usize::MAX, 6)] {
            let slowdown = slowdown(processes);
            let pauses: Vec<u64> = (0..).map_while(|tries| pause(tries, slowdown)).collect();
            assert_eq!(pauses.len(), tries, "{processes} processes");
            let total = pauses.iter().sum::<u64>();
            assert!((15_000..25_000).contains(&total), "{processes} processes: {total} µs");
        }
    }
}
