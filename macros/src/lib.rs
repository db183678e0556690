//! The attributes of mq-worker: `#[task]`, `#[setup]` and `#[on_failure]`. Use them through `mq_worker`.
//!
//! A small compiler: `ast` is the input, `attr` reads the options, `valid` checks, `expand` and `entry` generate code.
//! After mistakes, `fallback` generates an item that lets the compiler check the rest of the program.

mod ast;
mod attr;
mod entry;
mod expand;
mod fallback;
mod hook;
mod mistakes;
mod size;
mod valid;

use proc_macro::TokenStream;
use quote::quote;

use crate::ast::Function;
use crate::attr::Options;
use crate::mistakes::Mistakes;

/// Turns a function into a task: a call can be queued now and run later by a worker.
///
/// ```no_run
/// use std::time::Duration;
///
/// use mq_worker::{TaskError, task};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Clone, Serialize, Deserialize)]
/// struct User {
///     name: String,
///     email: String,
/// }
///
/// /// Sends the welcome e-mail.
/// #[task(queue = "email", max_retries = 5)]
/// async fn send_email(user: User, subject: String) -> Result<(), TaskError> {
///     println!("{subject}, {}!", user.name);
///     Ok(())
/// }
///
/// # async fn demo(user: User) -> Result<(), Box<dyn std::error::Error>> {
/// // Queue a call: returns once the broker has stored it safely.
/// let job = send_email.delay(user.clone(), "Welcome").await?;
/// // Queue a call with options.
/// send_email.with(user.clone(), "How do you like it?").countdown(Duration::from_secs(60)).send().await?;
/// // Queue many calls at once: an item is the tuple of arguments.
/// send_email.delay_many([(user.clone(), "One".into()), (user.clone(), "Two".into())]).await?;
/// // Wait for the result.
/// job.get().await?;
/// // It is still an ordinary function.
/// send_email(user, "Now".to_owned()).await.map_err(|error| error.to_string())?;
/// # Ok(())
/// # }
/// ```
///
/// # The function
///
/// - `async fn` runs on the async runtime; a plain `fn` runs on a bounded pool of blocking threads.
/// - It takes up to 12 arguments by value. Each type implements serde's `Serialize` and `Deserialize`. Calls may
///   pass them by position, by name, or mixed; an `Option` may be omitted. In `.delay` and `.with`, a `String`
///   parameter accepts any `Into<String>`.
/// - If the first parameter is `&Context`, the worker passes it: it is not an argument of the call.
/// - It returns a serializable value, nothing, or a `Result` of one. The error is a `TaskError`, any
///   `std::error::Error`, an error that implements `Permanence`, or any type with `Display`. A return type counts as
///   `Result` if its last path segment is `Result`, as in `anyhow::Result<()>`.
/// - It is a free function, outside of any `impl`: no generics, no `self`, no borrowed arguments. Shared values, such as
///   a connection pool, are created by a `#[setup]` function and accessed with `ctx.state::<T>()`. The types in the
///   signature of a public task must be public.
///
/// # Options
///
/// | option | meaning | default |
/// |---|---|---|
/// | `name = "mail.welcome"` | the name on the wire; no two tasks have the same | the function's name |
/// | `queue = "email"` | the queue that calls go to | a matching route, else the default queue |
/// | `max_retries = 5` | how many times a failed call is tried again | 3 |
/// | `backoff = "1s..10m"` | the shortest and the longest wait before a retry; it doubles, with jitter | `"1s..10m"` |
/// | `time_limit = "30s"` | a run that takes longer is stopped and counts as failed; a plain function can only be stopped when it is isolated | no limit |
/// | `soft_time_limit = "25s"` | then the context says [`is_cancelled`](https://docs.rs/mq-worker/latest/mq_worker/struct.Context.html#method.is_cancelled): the task may still end well | no limit |
/// | `isolate` | each run has a process of its own, which can really be stopped and may crash (Unix) | runs in the worker |
/// | `memory_limit = "512MB"` | how much memory that process may have | no limit |
/// | `unique_for = "1h"` | no second call with the same arguments is queued while one waits or runs, for so long at most | calls are independent |
/// | `unique_by = "user.id"` | what makes a call the same as another, in terms of its parameters; several with commas | all arguments |
/// | `once_for = "1h"` | a call that succeeded within this time is not run again when its message comes again; 24 hours at most | it may run again |
/// | `ack = "early"` | `"late"`: at least once, the message goes when the outcome is safe; `"early"`: at most once | `"late"` |
/// | `priority = 9` | 0 to 255, larger is more urgent | none |
/// | `expires = "1h"` | a call that waited longer is not run | never |
/// | `ignore_result` | nobody asks for the result: nothing is stored | results are kept |
/// | `topic = "order.*.paid"` | subscribes to messages with such a routing key: `*` is one word, `#` any number. May be repeated, or a list: `["a.*", "b.#"]` | none |
/// | `exchange = "logs"` | the exchange that it subscribes to, with `topic` unless that is a fanout exchange | the topic exchange |
/// | `broadcast` | every worker that is running gets a copy | one worker gets it |
/// | `crate = "path"` | where `mq_worker` is found when it was renamed | `::mq_worker` |
///
/// Durations are a number and a unit: `500ms`, `30s`, `10m`, `2h 30m`, `1day`.
///
/// # What is generated
///
/// The function becomes a unit struct of the same name, with its visibility and documentation, that implements
/// `Task` and has the methods above. It can be called because it dereferences to a function pointer. Like a
/// constant, it cannot be shadowed by a local variable: a parameter or a `let` in the same module needs another name.
///
/// A worker knows all tasks of the crates that are linked into its program.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    let mut mistakes = Mistakes::default();
    let options = Options::read(options.into(), &mut mistakes);
    valid::options(&options, &mut mistakes);
    let code = match Function::read("task", item.clone().into()) {
        Ok(function) => match valid::task(&function, &mut mistakes) {
            Some(task) => expand::task(&task, &options),
            None => fallback::task(&function, &options),
        },
        Err(error) => {
            mistakes.push(error);
            item.into()
        }
    };
    let mistakes = mistakes.into_tokens();
    quote!(#mistakes #code).into()
}

/// Runs a function in each worker before it takes its first message, to prepare the shared state.
///
/// ```
/// use mq_worker::{Context, SharedState, setup, task};
///
/// struct Greeting(String);
///
/// #[setup]
/// async fn prepare(state: &mut SharedState) -> Result<(), std::env::VarError> {
///     // Open the database connection pool, the HTTP client, …
///     state.insert(Greeting(std::env::var("GREETING")?));
///     Ok(())
/// }
///
/// #[task]
/// async fn greet(ctx: &Context, name: String) -> String {
///     format!("{}, {name}!", ctx.state::<Greeting>().0)
/// }
/// ```
///
/// The function, `async` or plain, takes `&mut SharedState` and returns nothing or a `Result<(), E>`; an error stops
/// the worker with its text. It remains an ordinary function, so that a test can call it. A program may have several:
/// they run in the order of their paths. `crate = "path"` sets the path of `mq_worker` if it was renamed.
#[proc_macro_attribute]
pub fn setup(options: TokenStream, item: TokenStream) -> TokenStream {
    hook::SETUP.compile(options.into(), item.into()).into()
}

/// Calls a function in the worker after a message was dead-lettered.
///
/// ```
/// use mq_worker::{FailedTask, on_failure};
///
/// #[on_failure]
/// async fn alert(failed: &FailedTask) {
///     eprintln!("{} {}: {} ({})", failed.task(), failed.id(), failed.failure(), failed.reason());
/// }
/// ```
///
/// The function, `async` or plain, takes `&FailedTask` and returns nothing or a `Result<(), E>`. It is called for every
/// dead letter: after the last retry, a permanent error, a message that fits no task, or a poison message. A program may
/// have several such functions: they run in the order of their paths.
///
/// It is called after the dead letter is safe and before the message is acknowledged: at least once, and again if the
/// worker dies in between. It cannot affect the message: if it fails, panics or takes longer than 30 seconds, that is
/// logged, and the message is acknowledged. `crate = "path"` sets the path of `mq_worker` if it was renamed.
#[proc_macro_attribute]
pub fn on_failure(options: TokenStream, item: TokenStream) -> TokenStream {
    hook::ON_FAILURE.compile(options.into(), item.into()).into()
}
