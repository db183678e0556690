//! One run through the middleware: the inner layers as a value that each layer may run once.

use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;

use super::chain::Erased;
use crate::task::{Context, TaskError};

/// The rest of the way to the task. Dropping it without [`run`](Self::run) means that the task does not run.
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

impl std::fmt::Debug for Next<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Next")
    }
}

/// Where the innermost layer leaves what the worker needs and no layer may change.
pub(super) type Slot<T> = Arc<Mutex<Option<T>>>;
