//! How many messages a worker reserves with `prefetch = "auto"`: about as many as it starts within [`WINDOW`].
//!
//! The decision depends on how fast reserved messages start, not on how long tasks take. That rate drops as soon as running
//! tasks compete for a busy processor or become slow, and measuring it costs the tasks nothing.

use std::time::Duration;

/// Enough messages to start within this time are reserved. As long as tasks keep taking the same time, a message waits here
/// no longer than that while another worker could run it. A broker whose replies take a good part of this time is still kept
/// busy, since the window grows as long as twice as many messages would start within this time.
const WINDOW: Duration = Duration::from_millis(50);
/// The most messages that are reserved, unless there are more slots. A larger window hardly drains faster, and all of it is
/// in memory.
const MOST: usize = 2000;
/// How many spans of [`WINDOW`] the waiting messages may take to start before some are returned. A window is chosen to take
/// half a span to a whole one.
const MAX_WAIT: f64 = 4.0;
/// An unused window is given up after this many spans of [`SPAN`].
const UNUSED: u32 = 20;

/// How often a worker measures how many tasks it has started.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// How long a rate must hold before the window grows.
const SPAN: Duration = Duration::from_millis(500);

/// What a worker has measured about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Measurement {
    /// Tasks started per second since the last measurement, or between that and the one before, whichever is higher: a
    /// machine that was busy with something else for a moment is no reason to return reserved messages.
    pub(super) rate: f64,
    /// The rate over a whole [`SPAN`] in which the window did not change. Set at the end of the span.
    pub(super) sustained: Option<f64>,
    /// How many messages wait for a slot.
    pub(super) waiting: usize,
    /// For how many spans in a row a quarter of the window would have been enough.
    pub(super) unused: u32,
}

/// Returns how many messages to reserve from now on: the number of slots, doubled zero or more times. It falls at once as
/// far as necessary, and grows one doubling at a time.
pub(super) fn decide(slots: usize, current: u16, seen: &Measurement) -> u16 {
    // If the number of slots has changed, start from the nearest window that it allows.
    let current = fit(slots, f64::from(current));
    let waiting = seen.waiting as f64;
    if waiting > MAX_WAIT * begun(seen.rate) {
        return fit(slots, begun(seen.rate)).min(current);
    }
    let Some(sustained) = seen.sustained.map(begun) else { return current };
    let double = 2.0 * f64::from(current);
    if seen.unused >= UNUSED {
        fit(slots, sustained).min(current)
    } else if sustained >= double && waiting <= sustained {
        fit(slots, double)
    } else {
        current
    }
}

/// The largest window that is no larger than `room`, but at least the number of slots.
fn fit(slots: usize, room: f64) -> u16 {
    let room = room.min(MOST as f64);
    let mut window = slots.max(1);
    while 2.0 * window as f64 <= room {
        window *= 2;
    }
    u16::try_from(window).unwrap_or(u16::MAX)
}

/// How many tasks start within [`WINDOW`] at this rate.
fn begun(rate: f64) -> f64 {
    rate * WINDOW.as_secs_f64()
}

/// Turns counts into rates.
#[derive(Debug, Default)]
pub(super) struct Meter {
    begun: u64,
    last: f64,
    span: Span,
    unused: u32,
}

/// Tasks and time since the last sustained rate, or since the window changed.
#[derive(Debug, Default)]
struct Span {
    tasks: u64,
    time: Duration,
}

impl Meter {
    /// Takes a measurement: `begun` tasks since the start, `waiting` messages now, `passed` since the last one.
    pub(super) fn look(&mut self, begun: u64, waiting: usize, passed: Duration, current: u16) -> Measurement {
        let tasks = begun - std::mem::replace(&mut self.begun, begun);
        self.span.tasks += tasks;
        self.span.time += passed;
        let sustained = (self.span.time >= SPAN).then(|| {
            let span = std::mem::take(&mut self.span);
            per_second(span.tasks, span.time)
        });
        if let Some(rate) = sustained {
            let is_unused = MAX_WAIT * self::begun(rate) < f64::from(current);
            self.unused = if is_unused { self.unused + 1 } else { 0 };
        }
        let now = per_second(tasks, passed);
        let rate = now.max(std::mem::replace(&mut self.last, now));
        Measurement { rate, sustained, waiting, unused: self.unused }
    }

    /// Starts a new span after the window has changed: what was measured before says nothing about the new window.
    pub(super) fn reset_span(&mut self) {
        (self.span, self.unused) = Default::default();
    }
}

fn per_second(tasks: u64, time: Duration) -> f64 {
    // Two measurements at the same instant show nothing.
    if time.is_zero() { 0.0 } else { tasks as f64 / time.as_secs_f64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(rate: f64, waiting: usize) -> Measurement {
        Measurement { rate, sustained: Some(rate), waiting, unused: 0 }
    }

    /// Repeats the decision at the same rate, with all reserved messages waiting, until the window is stable.
    fn settled(slots: usize, rate: f64) -> (u16, u32) {
        let (mut window, mut steps) = (fit(slots, 0.0), 0);
        loop {
            let next = decide(slots, window, &busy(rate, usize::from(window)));
            if next == window {
                return (window, steps);
            }
            assert_eq!(next, 2 * window, "one step at a time");
            (window, steps) = (next, steps + 1);
        }
    }

    #[test]
    fn the_window_is_what_begins_within_fifty_milliseconds() {
        // Slots, tasks a second, window.
        for (slots, rate, window) in [
            // Tasks of 1 s, and of a twentieth of that.
            (20, 20.0, 20),
            (20, 400.0, 20),
            (1, 1.0, 1),
            (1, 20.0, 1),
            (1, 40.0, 2),
            // Tasks of 1 ms, in two slots.
            (2, 2_000.0, 64),
            (20, 799.0, 20),
            (20, 800.0, 40),
            // Tasks of microseconds.
            (20, 100_000.0, 1_280),
            (1, 1e9, 1_024),
            (7, 1e9, 1_792),
            // More slots than may be reserved otherwise.
            (5_000, 1e9, 5_000),
            (100_000, 1e9, u16::MAX),
        ] {
            assert_eq!(settled(slots, rate).0, window, "{slots} slots, {rate} a second");
        }
        assert_eq!(settled(20, 100_000.0).1, 6, "20 doubled six times");
    }

    #[test]
    fn it_stays_while_the_rate_changes_a_little() {
        for rate in [3_300.0, 6_400.0, 12_700.0] {
            assert_eq!(decide(20, 320, &busy(rate, 320)), 320, "{rate}");
        }
        assert_eq!(decide(20, 320, &busy(12_800.0, 320)), 640);
        // The waiting messages would take more than 200 ms to start.
        assert_eq!(decide(20, 320, &busy(1_590.0, 320)), 40);
    }

    #[test]
    fn it_falls_at_once_when_what_waits_does_not_begin() {
        let stuck = Measurement { rate: 0.0, sustained: None, waiting: 1_260, unused: 0 };
        assert_eq!(decide(20, 1_280, &stuck), 20);
        assert_eq!(decide(20, 1_280, &Measurement { waiting: 1, ..stuck }), 20);
        // All slots but one are stuck, yet the waiting messages still start in time.
        assert_eq!(decide(20, 1_280, &Measurement { rate: 20_000.0, ..stuck }), 1_280);
        assert_eq!(decide(20, 1_280, &Measurement { rate: 2_000.0, ..stuck }), 80);
    }

    #[test]
    fn it_does_not_grow_before_a_rate_has_held_nor_while_too_much_waits() {
        let sudden = Measurement { rate: 1e6, sustained: None, waiting: 20, unused: 0 };
        assert_eq!(decide(20, 20, &sudden), 20);
        // Deliveries from many queues, each with its own window.
        assert_eq!(decide(20, 20, &busy(1_000.0, 60)), 20);
    }

    #[test]
    fn a_worker_without_work_keeps_its_window_for_a_while() {
        let idle = Measurement { rate: 0.0, sustained: Some(0.0), waiting: 0, unused: UNUSED - 1 };
        assert_eq!(decide(20, 1_280, &idle), 1_280);
        assert_eq!(decide(20, 1_280, &Measurement { unused: UNUSED, ..idle }), 20);
        assert_eq!(decide(20, 1_280, &Measurement { unused: UNUSED, sustained: Some(2_000.0), ..idle }), 80);
        assert_eq!(decide(20, 1_280, &Measurement { unused: UNUSED, sustained: None, ..idle }), 1_280);
    }

    #[test]
    fn it_follows_the_slots() {
        let calm = Measurement { rate: 1_000.0, ..Measurement::default() };
        for (slots, current, window) in
            [(8, 4, 8), (4, 8, 8), (1, 8, 8), (3, 8, 6), (30, 20, 30), (10, 20, 20)]
        {
            assert_eq!(decide(slots, current, &calm), window, "{slots} slots after {current}");
        }
    }

    #[test]
    fn rates_are_of_the_time_that_has_passed() {
        let mut meter = Meter::default();
        let seen = meter.look(100, 5, Duration::from_millis(100), 20);
        assert_eq!(seen, Measurement { rate: 1_000.0, sustained: None, waiting: 5, unused: 0 });
        // A late measurement, which no longer counts after the next one.
        let seen = meter.look(300, 0, Duration::from_millis(400), 20);
        assert_eq!((seen.rate, seen.sustained), (1_000.0, Some(600.0)));
        assert_eq!(meter.look(300, 0, LOOK, 20).rate, 500.0);
        assert_eq!(meter.look(300, 0, Duration::ZERO, 20), Measurement::default());
        meter.reset_span();
        for span in 1..=3 {
            assert_eq!(meter.look(300, 0, SPAN, 20).unused, span);
        }
        meter.reset_span();
        assert_eq!(meter.look(301, 0, SPAN, 20).unused, 1);
        assert_eq!(meter.look(2_301, 0, SPAN, 20).unused, 0);
    }
}
