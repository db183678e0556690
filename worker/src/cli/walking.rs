//! A walk over a queue, which may take a while: it shows its progress, and a signal stops it cleanly.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::exit::{Failure, Outcome};
use super::signals::{Signal, Signals};
use crate::admin::progress::{Counts, Progress};

/// A walk shorter than this shows nothing.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
/// How often the display is refreshed.
const TICK: Duration = Duration::from_millis(200);

/// What is shown on a terminal during a walk.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Shown {
    Nothing,
    /// The progress, and how many messages were processed, with a verb such as `dropped`.
    Counts(&'static str),
}

/// Runs a walk. The first signal stops the walk and sets the exit code; the second ends the program, and the broker
/// requeues the messages that are held.
pub(super) async fn walk<T>(
    shown: Shown,
    command: impl AsyncFnOnce(Arc<Progress>) -> Outcome<T>,
) -> Outcome<T> {
    let mut signals =
        Signals::listen().map_err(|error| Failure::failed(format!("cannot listen to signals: {error}")))?;
    let progress = Arc::new(Progress::default());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style());
    let begun = Instant::now();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stopped: Option<Signal> = None;
    let mut walking = std::pin::pin!(command(Arc::clone(&progress)));
    let outcome = loop {
        tokio::select! {
            outcome = &mut walking => break outcome,
            signal = signals.next() => {
                if stopped.as_ref().is_some_and(|first| first.escalates && signal.escalates) {
                    std::process::exit(signal.code.into());
                }
                progress.stop();
                stopped = Some(signal);
            }
            _ = tick.tick(), if !bar.is_hidden() => {
                if let Shown::Counts(what) = shown
                    && begun.elapsed() > SHOWN_AFTER
                {
                    show(&bar, progress.counts(), what, stopped.is_some());
                }
            }
        }
    };
    bar.finish_and_clear();
    match (outcome, stopped) {
        (Err(failure), Some(signal)) => Err(Failure::new(signal.code, failure.into_parts().1)),
        (outcome, _) => outcome,
    }
}

fn show(bar: &ProgressBar, Counts { total, seen, done }: Counts, what: &str, is_ending: bool) {
    bar.set_length(total);
    bar.set_position(seen.min(total));
    bar.set_message(match (is_ending, seen < total) {
        (true, _) => format!("{done} {what}; requeueing the held messages"),
        (false, true) => format!("{done} {what}"),
        (false, false) => format!("{done} {what}; putting back the rest"),
    });
    bar.tick();
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {elapsed} [{bar:30}] {pos}/{len} {msg}")
        .expect("a constant template")
}
