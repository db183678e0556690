//! Measures how much slower this machine is than an idle one, because of other processes.

use std::fs;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The number of consecutive measurements that are averaged, since a single bad one says little.
const ROW: usize = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// A few milliseconds of work.
const WORK: u64 = 1_000_000;

/// Measures until stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<f64>,
}

impl Load {
    pub(crate) fn measure() -> Load {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut measured = Vec::new();
            while !stopped.load(Ordering::SeqCst) {
                measured.extend(slowdown());
                thread::sleep(PAUSE);
            }
            highest(&measured)
        });
        Load { stop, thread }
    }

    /// Stops and returns the slowdown of the worst second: 1 on an idle machine.
    pub(crate) fn stop(self) -> f64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.join().expect("measuring does not panic")
    }
}

fn highest(measured: &[f64]) -> f64 {
    let means = measured.windows(ROW).map(|row| row.iter().sum::<f64>() / ROW as f64);
    means.fold(1.0, f64::max)
}

/// Works for a moment and returns elapsed time divided by CPU time; `None` if the system does not report it.
fn slowdown() -> Option<f64> {
    let (ran, waited) = times()?;
    let mut number = 1_u64;
    for _ in 0..WORK {
        number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    let (ran, waited) = times().map(|(r, w)| (r - ran, w - waited))?;
    (ran > 0.0).then(|| (ran + waited) / ran)
}

/// Returns how long this thread has run and has waited for a CPU.
fn times() -> Option<(f64, f64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::highest;

    #[test]
    fn a_slow_second_counts_and_a_slow_moment_less() {
        assert!((highest(&[1.0; 20]) - 1.0).abs() < f64::EPSILON);
        assert!((highest(&[1.0, 1.0, 6.0, 1.0, 1.0, 1.0]) - 2.0).abs() < 1e-9);
        assert!((highest(&[1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 1.0]) - 4.0).abs() < 1e-9);
        assert!((highest(&[]) - 1.0).abs() < f64::EPSILON);
    }
}
