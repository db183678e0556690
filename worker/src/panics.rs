//! A net under code that is not ours: what panics there becomes a text, and nothing else comes down with it.
//!
//! A value may panic as it is dropped, and so may the payload of a panic. Two panics at once end the process, which no
//! net can prevent; everything else is caught here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs foreign code. A panic becomes its text.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(text_of)
}

/// The text of a panic, whose payload is dropped.
pub(crate) fn text_of(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        // Leaked: its drop could panic in its turn, and so on without an end.
        std::mem::forget(another);
    }
    text.unwrap_or_else(|| "a panic without a text".into())
}

/// A foreign value, whose drop is caught.
#[derive(Debug)]
pub(crate) struct Guarded<T>(Option<T>);

impl<T> Guarded<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// The value itself, without its guard.
    pub(crate) fn into_inner(mut self) -> T {
        self.0.take().expect("there until it is dropped")
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        // The panic hook has said where it was.
        let _ = caught(|| drop(value));
    }
}

/// A foreign future. A panic as it runs is its result; one as it is dropped harms nobody.
#[derive(Debug)]
pub(crate) struct Caught<F>(Option<F>);

impl<F: Future + Unpin> Caught<F> {
    pub(crate) fn new(future: F) -> Self {
        Self(Some(future))
    }

    /// Drops the future where it stands. The error is the panic with which it went.
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
            assert_eq!(caught, Err("a panic without a text".into()));
        }
        assert_eq!(caught(|| panic!("boom {}", 1)), Err::<(), _>("boom 1".into()));
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
