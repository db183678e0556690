//! What a process measures about itself.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Failure;

/// The figures of one measurement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Tasks per second.
    pub(crate) rate: f64,
    /// CPU time of this process for each task, user and system, in microseconds.
    pub(crate) cpu: f64,
    /// Median time until a task starts, in microseconds, if that was measured.
    pub(crate) latency: f64,
    /// Median time until the caller has its confirm, in microseconds, if that was measured.
    #[serde(default)]
    pub(crate) confirmed: f64,
    /// Resident memory at the end, in MB.
    pub(crate) rss: f64,
}

/// A running measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    clock: Instant,
    cpu: Duration,
}

impl Begun {
    pub(crate) fn now() -> Self {
        Self { clock: Instant::now(), cpu: cpu() }
    }

    /// Ends the measurement and returns the figures for this many tasks.
    pub(crate) fn end(self, tasks: u64) -> Result<Figures, Failure> {
        let (elapsed, cpu) = (self.clock.elapsed(), cpu() - self.cpu);
        let tasks = tasks as f64;
        Ok(Figures {
            rate: tasks / elapsed.as_secs_f64(),
            cpu: cpu.as_secs_f64() * 1e6 / tasks,
            rss: resident()?,
            ..Figures::default()
        })
    }
}

/// The figures of a latency measurement: the times until the start and until the confirm.
pub(crate) fn latency(times: Vec<(Duration, Duration)>) -> Result<Figures, Failure> {
    let (started, confirmed) = times.into_iter().unzip();
    Ok(Figures {
        latency: median(started)?,
        confirmed: median(confirmed)?,
        rss: resident()?,
        ..Figures::default()
    })
}

/// In microseconds.
fn median(mut times: Vec<Duration>) -> Result<f64, Failure> {
    times.sort_unstable();
    let median = times.get(times.len() / 2).ok_or("nothing was measured")?;
    Ok(median.as_secs_f64() * 1e6)
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn resident() -> Result<f64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).ok_or("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("VmRSS has no number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}
