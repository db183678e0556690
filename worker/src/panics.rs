//! Catches panics of user code: the panic becomes a text, and nothing else is affected.
//!
//! A value may panic when it is dropped, and so may the payload of a panic. A panic during a panic aborts the process,
//! which cannot be prevented; everything else is caught here.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Once;
use std::task::{Context, Poll};

use serde::{Deserialize, Serialize};

/// Runs user code. A panic is returned as its text.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(text_of)
}

/// Returns the text of a panic and drops its payload.
pub(crate) fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Leaked: dropping it could panic again, and so on without end.
        std::mem::forget(another);
    }
    text.unwrap_or_else(|| "a panic without a message".into())
}

/// A panic of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Panic {
    pub(crate) text: String,
    /// The location and the backtrace.
    pub(crate) trace: Option<String>,
}

impl From<String> for Panic {
    fn from(text: String) -> Self {
        Self { text, trace: None }
    }
}

impl Panic {
    /// The panic with this text that was just caught on this thread, with its backtrace if one was recorded.
    pub(crate) fn just_caught(text: String) -> Self {
        let seen = LAST.with(|last| last.borrow_mut().take());
        Self { text, trace: seen.map(|(place, backtrace)| trace(&place, &backtrace.to_string())) }
    }
}

thread_local! {
    /// The location and backtrace of the last panic on this thread, until it is reported.
    static LAST: RefCell<Option<(String, Backtrace)>> = const { RefCell::new(None) };
    /// True while a task's own code runs on this thread.
    static TRACED: Cell<bool> = const { Cell::new(false) };
}

/// Records the backtraces of panics in tasks from now on. The program's own panic hook is still called; one that it sets
/// later replaces this one.
pub(crate) fn keep_traces() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if TRACED.get() {
                let place = info.location().map_or_else(String::new, ToString::to_string);
                let seen = (place, Backtrace::force_capture());
                let _ = LAST.try_with(|last| last.replace(Some(seen)));
            }
            others(info);
        }));
    });
}

/// Runs user code and records the backtrace if it panics.
pub(crate) fn traced<T>(run: impl FnOnce() -> T) -> T {
    struct Reset(bool);
    impl Drop for Reset {
        fn drop(&mut self) {
            TRACED.set(self.0);
        }
    }
    let _reset = Reset(TRACED.replace(true));
    run()
}

/// The frames of the program between the panic and the place where it was caught.
fn trace(place: &str, backtrace: &str) -> String {
    /// How many frames are kept.
    const FRAMES: usize = 40;
    let is_start = |line: &&str| line.trim_start().starts_with(|c: char| c.is_ascii_digit());
    let mut frames: Vec<String> = Vec::new();
    for line in backtrace.lines() {
        match (is_start(&line), frames.last_mut()) {
            (true, _) => frames.push(line.trim().split_once(": ").map_or(line, |(_, name)| name).to_owned()),
            (false, Some(frame)) => *frame += &format!(" {}", line.trim()),
            (false, None) => {}
        }
    }
    let begin = frames
        .iter()
        .rposition(|frame| frame.starts_with("core::panicking::") || frame.contains("begin_panic"));
    let frames = frames.split_off(begin.map_or(0, |begin| begin + 1));
    let inside = frames.iter().take_while(|frame| !frame.contains("mq_worker::panics::"));
    let of_program = inside.filter(|frame| {
        !["core::", "std::", "<core::", "<alloc::", "alloc::", "__rust"]
            .iter()
            .any(|own| frame.starts_with(own))
    });
    of_program.take(FRAMES).fold(format!("panicked at {place}"), |text, frame| text + "\n  " + frame)
}

/// A user's value: a panic in its drop is caught.
#[derive(Debug)]
pub(crate) struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Returns the value without its guard.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("there until it is dropped")
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        // The panic hook has reported the location.
        let _ = caught(|| drop(value));
    }
}

/// A user's future. A panic while it runs is its result; a panic in its drop is caught.
#[derive(Debug)]
pub(crate) struct Caught<F>(Option<F>);

impl<F: Future + Unpin> Caught<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Some(future))
    }

    /// Drops the future. The error is the panic of its drop.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let future = self.0.take();
        caught(|| drop(future))
    }
}

impl<F: Future + Unpin> Future for Caught<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Ready(Err("it was stopped".into())) };
        match caught(|| Pin::new(future).poll(cx)) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(match self.stop() {
                Ok(()) => Ok(output),
                Err(panic) => {
                    drop(Guarded::new(output));
                    Err(panic)
                }
            }),
            Err(panic) => {
                let _ = self.stop();
                Poll::Ready(Err(panic))
            }
        }
    }
}

impl<F> Drop for Caught<F> {
    fn drop(&mut self) {
        let future = self.0.take();
        let _ = caught(|| drop(future));
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    struct Bomb(u32);

    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 > 0 {
                std::panic::panic_any(Bomb(self.0 - 1));
            }
        }
    }

    #[test]
    fn a_payload_that_panics_as_it_is_dropped_is_caught_with_its_followers() {
        for depth in 0..4 {
            let caught = caught(|| std::panic::panic_any(Bomb(depth)));
            assert_eq!(caught, Err("a panic without a message".into()));
        }
        assert_eq!(caught(|| panic!("boom {}", 1)), Err::<(), _>("boom 1".into()));
    }

    #[inline(never)]
    fn goes_wrong() {
        panic!("boom")
    }

    #[test]
    fn a_panic_keeps_its_location_and_backtrace() {
        keep_traces();
        let text = caught(|| traced(goes_wrong)).expect_err("it panics");
        let panic = Panic::just_caught(text);
        let trace = panic.trace.expect("a trace");
        assert!(trace.starts_with("panicked at ") && trace.contains("panics.rs:"), "{trace}");
        assert_eq!(panic.text, "boom");
        let untraced = Panic::just_caught(caught(goes_wrong).expect_err("it panics"));
        assert_eq!(untraced.trace, None);
    }

    #[test]
    fn of_a_backtrace_the_frames_of_the_program_are_kept() {
        let text = "   0: std::backtrace::Backtrace::force_capture\n             at /rustc/std/backtrace.rs:1:1\n\
                       1: core::panicking::panic_fmt\n             at /rustc/core/panicking.rs:75:14\n\
                       2: shop::pay\n             at ./src/pay.rs:7:9\n\
                       3: <core::pin::Pin<P> as core::future::future::Future>::poll\n             at /rustc/x.rs:1:1\n\
                       4: shop::run::{{closure}}\n             at ./src/run.rs:2:3\n\
                       5: mq_worker::panics::caught\n             at ./panics.rs:9:1\n   6: main\n";
        assert_eq!(
            trace("src/pay.rs:7:9", text),
            "panicked at src/pay.rs:7:9\n  shop::pay at ./src/pay.rs:7:9\n  shop::run::{{closure}} at ./src/run.rs:2:3"
        );
    }

    #[test]
    fn a_future_is_caught_as_it_runs_and_as_it_is_dropped() {
        let bomb = Bomb(1);
        let mut holding = Caught::new(
            async move {
                let _bomb = bomb;
                pending::<()>().await;
            }
            .boxed(),
        );
        assert_eq!((&mut holding).now_or_never(), None);
        assert!(holding.stop().is_err());
        assert!(holding.stop().is_ok(), "once");
        assert_eq!(Caught::new(ready(1)).now_or_never(), Some(Ok(1)));
        let panics = Caught::new(async { panic!("boom") }.boxed()).now_or_never();
        assert_eq!(panics, Some(Err::<(), _>("boom".into())));
        drop(Guarded::new(Bomb(2)));
    }
}
