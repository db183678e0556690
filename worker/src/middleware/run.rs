//! One middleware, and one run through all of them: each layer gets the inner ones as a value that it may run once.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{Middleware, Outgoing, TaskOutcome};
use crate::error::Error;
use crate::task::{Context, TaskError};

/// The object-safe form of [`Middleware`].
pub trait Erased: Send + Sync {
    #[doc(hidden)]
    fn name(&self) -> &'static str;
    #[doc(hidden)]
    fn before_publish<'a>(&'a self, call: &'a mut Outgoing<'_>) -> BoxFuture<'a, Result<(), TaskError>>;
    #[doc(hidden)]
    fn after_publish<'a>(
        &'a self,
        call: &'a Outgoing<'_>,
        published: Result<(), &'a Error>,
    ) -> BoxFuture<'a, ()>;
    #[doc(hidden)]
    fn around<'a>(&'a self, context: &'a Context, next: Next<'a>) -> BoxFuture<'a, Result<Ran, TaskError>>;
    #[doc(hidden)]
    fn on_outcome<'a>(&'a self, context: &'a Context, outcome: &'a TaskOutcome<'_>) -> BoxFuture<'a, ()>;
}

impl<M: Middleware> Erased for M {
    fn name(&self) -> &'static str {
        type_name::<M>()
    }

    fn before_publish<'a>(&'a self, call: &'a mut Outgoing<'_>) -> BoxFuture<'a, Result<(), TaskError>> {
        Middleware::before_publish(self, call).boxed()
    }

    fn after_publish<'a>(
        &'a self,
        call: &'a Outgoing<'_>,
        published: Result<(), &'a Error>,
    ) -> BoxFuture<'a, ()> {
        Middleware::after_publish(self, call, published).boxed()
    }

    fn around<'a>(&'a self, context: &'a Context, next: Next<'a>) -> BoxFuture<'a, Result<Ran, TaskError>> {
        Middleware::around(self, context, next).boxed()
    }

    fn on_outcome<'a>(&'a self, context: &'a Context, outcome: &'a TaskOutcome<'_>) -> BoxFuture<'a, ()> {
        Middleware::on_outcome(self, context, outcome).boxed()
    }
}

impl fmt::Debug for dyn Erased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The inner middleware and the task. Dropping it without [`run`](Self::run) means that the task does not run.
pub struct Next<'a> {
    pub(super) layers: &'a [Arc<dyn Erased>],
    pub(super) context: &'a Context,
    pub(super) innermost: Innermost<'a>,
}

/// Runs the task itself.
pub(super) type Innermost<'a> = Box<dyn FnOnce() -> BoxFuture<'a, Result<Ran, TaskError>> + Send + 'a>;

/// The proof that a task has run and returned a value. Only [`Next::run`] makes one.
#[derive(Debug)]
pub struct Ran(pub(super) ());

/// How a run ended, for the layers around it.
#[derive(Debug)]
pub enum RunEnd {
    /// It returned a value.
    Returned,
    /// It returned an error, or ended in a way that the layers see as one.
    Erred(TaskError),
}

impl RunEnd {
    pub(super) fn seen(self) -> Result<Ran, TaskError> {
        match self {
            RunEnd::Returned => Ok(Ran(())),
            RunEnd::Erred(error) => Err(error),
        }
    }
}

impl<'a> Next<'a> {
    /// Runs the inner middleware and then the task.
    ///
    /// # Errors
    /// The error of the task, its panic, or that of an inner middleware.
    pub fn run(self) -> BoxFuture<'a, Result<Ran, TaskError>> {
        match self.layers.split_first() {
            Some((layer, layers)) => {
                let next = Next { layers, ..self };
                layer.around(next.context, next)
            }
            None => (self.innermost)(),
        }
    }
}

impl fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

/// Carries the value for the worker around the layers, so that none of them can change it.
pub(super) type Slot<T> = Arc<Mutex<Option<T>>>;
