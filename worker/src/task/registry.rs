//! The tasks that are linked into this program.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::future::BoxFuture;
use serde::Serialize;

use super::{Context, SharedState, TaskError, TaskOptions};
use crate::error::{Error, Result};
use crate::message::{ArgumentError, Arguments, ResultTypes, json};
use crate::panics::{Caught, Guarded, caught};

/// One task as the worker knows it: plain facts and a function pointer, collected by `inventory`.
pub struct TaskEntry {
    /// The name on the wire.
    pub name: &'static str,
    /// The options of the attribute.
    pub options: TaskOptions,
    /// The names of the parameters, in order, without the context.
    pub parameters: &'static [&'static str],
    /// The parameters with their types, for people.
    pub signature: &'static str,
    /// The doc comment.
    pub doc: &'static str,
    /// The file of the attribute.
    pub file: &'static str,
    /// The line in that file.
    pub line: u32,
    /// Decodes the arguments and returns the work to do.
    pub start: fn(Context, Arguments<'_>) -> Result<Work, ArgumentError>,
}

inventory::collect!(TaskEntry);

/// The run of one call, decoded and ready.
pub enum Work {
    /// Runs on the async runtime.
    Async(BoxFuture<'static, Result<Vec<u8>, TaskError>>),
    /// Runs on the blocking pool.
    Blocking(Box<dyn FnOnce() -> Result<Vec<u8>, TaskError> + Send>),
    /// Runs in a separate process, which decodes the call itself.
    Isolated {
        /// How many bytes of memory that process may use.
        memory_limit: Option<u64>,
    },
}

impl Work {
    /// Async work.
    pub fn future(future: impl Future<Output = Result<Vec<u8>, TaskError>> + Send + 'static) -> Self {
        Work::Async(Box::pin(future))
    }

    /// Blocking work.
    pub fn blocking(run: impl FnOnce() -> Result<Vec<u8>, TaskError> + Send + 'static) -> Self {
        Work::Blocking(Box::new(run))
    }
}

/// Encodes a value as JSON.
///
/// # Errors
/// A permanent error if JSON cannot represent the value.
pub fn write_output<T: Serialize>(output: &T) -> Result<Vec<u8>, TaskError> {
    write_result(output, ResultTypes::Json)
}

/// Encodes the return value of a task as JSON.
///
/// # Errors
/// A permanent error if JSON cannot represent the value.
pub(crate) fn write_result<T: Serialize>(output: &T, types: ResultTypes) -> Result<Vec<u8>, TaskError> {
    json::to_vec_as(output, types)
        .map_err(|error| TaskError::reject(format!("the result cannot be written as JSON: {error}")))
}

/// Why a call did not start.
pub(crate) enum StartError {
    /// The arguments do not fit the task.
    Refused(ArgumentError),
    /// The code that decodes them panicked, with this text.
    Panicked(String),
}

impl TaskEntry {
    /// Decodes the arguments, in the task's own types.
    pub(crate) fn begin(
        &self,
        context: Context,
        arguments: Arguments<'_>,
    ) -> Result<Guarded<Work>, StartError> {
        match caught(|| (self.start)(context, arguments)) {
            // Guarded: it holds the user's arguments, and may be dropped without having run.
            Ok(Ok(work)) => Ok(Guarded::new(work)),
            Ok(Err(error)) => Err(StartError::Refused(error)),
            Err(panic) => Err(StartError::Panicked(panic)),
        }
    }
}

impl fmt::Debug for TaskEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name, self.signature)
    }
}

/// All tasks of the program by name.
#[derive(Clone, Debug, Default)]
pub struct Registry(BTreeMap<&'static str, &'static TaskEntry>);

impl Registry {
    /// The tasks that are linked into this program.
    ///
    /// # Errors
    /// Two tasks have the same name: the message shows both locations.
    pub fn collect() -> Result<Self> {
        Self::from_entries(inventory::iter::<TaskEntry>)
    }

    /// A registry of these tasks.
    ///
    /// # Errors
    /// Two tasks have the same name: the message shows both locations.
    pub fn from_entries(entries: impl IntoIterator<Item = &'static TaskEntry>) -> Result<Self> {
        let mut tasks: BTreeMap<&'static str, &'static TaskEntry> = BTreeMap::new();
        for entry in entries {
            if let Some(other) = tasks.insert(entry.name, entry) {
                let mut places = [other, entry].map(|e| (e.file, e.line));
                places.sort_unstable();
                let [first, second] = places.map(|(file, line)| format!("{file}:{line}"));
                return Err(Error::config(format!(
                    "two tasks are named `{}`: one at {first}, one at {second}; give one of them another name \
                     with #[task(name = \"..\")]",
                    entry.name
                )));
            }
        }
        Ok(Self(tasks))
    }

    /// The task with this name.
    pub fn get(&self, name: &str) -> Option<&'static TaskEntry> {
        self.0.get(name).copied()
    }

    /// All tasks, by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static TaskEntry> {
        self.0.values().copied()
    }

    /// The number of tasks.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if the program has no tasks.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A function that fills the shared state before the worker takes its first message. Generated by `#[setup]`.
pub struct SetupEntry {
    /// The function's path, for messages.
    pub name: &'static str,
    /// Fills the state. An error stops the worker.
    pub run: for<'a> fn(&'a mut SharedState) -> BoxFuture<'a, Result<(), TaskError>>,
}

inventory::collect!(SetupEntry);

/// Runs the set-up functions of the program, by name.
///
/// # Errors
/// The first set-up function that fails.
pub async fn run_setup(state: &mut SharedState) -> Result<()> {
    let mut entries: Vec<&SetupEntry> = inventory::iter::<SetupEntry>.into_iter().collect();
    entries.sort_by_key(|entry| entry.name);
    for entry in entries {
        let failed = |how: &str, why: &dyn fmt::Display| {
            Err(Error::config(format!("set-up `{}` {how}: {why}", entry.name)))
        };
        match Caught::new((entry.run)(state)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return failed("failed", &error),
            Err(panic) => return failed("panicked", &panic),
        }
    }
    Ok(())
}
