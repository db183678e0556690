//! The attributes of mq-worker: `#[task]` and `#[setup]`. Use them through `mq_worker::task` and `mq_worker::setup`.
//!
//! A small compiler: `ast` is what is read, `options` reads the options, `valid` checks, `expand` and `entry` write; where
//! there were mistakes, `fallback` writes something that the rest of the program can be checked against.

mod ast;
mod entry;
mod expand;
mod fallback;
mod hook;
mod mistakes;
mod options;
mod valid;

use proc_macro::TokenStream;
use quote::quote;

use crate::ast::Function;
use crate::mistakes::Mistakes;
use crate::options::Options;

/// Makes a function a task: something that can be queued now and run later, by a worker.
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
/// // Queued: returns once the broker has the call safely.
/// let job = send_email.delay(user.clone(), "Welcome").await?;
/// // Queued with options.
/// send_email.with(user.clone(), "How do you like it?").countdown(Duration::from_secs(60)).send().await?;
/// // Many at once: an item is the tuple of arguments.
/// send_email.delay_many([(user.clone(), "One".into()), (user.clone(), "Two".into())]).await?;
/// // What the task returned, when somebody wants to know.
/// job.get().await?;
/// // Still an ordinary function, run right here.
/// send_email(user, "Now".to_owned()).await.map_err(|error| error.to_string())?;
/// # Ok(())
/// # }
/// ```
///
/// # The function
///
/// - `async fn` runs on the async runtime; a plain `fn` runs on a bounded pool of blocking threads.
/// - It takes up to 12 arguments by value. Each type implements serde's `Serialize` and `Deserialize`. Calls may
///   give them by position, by name, or mixed; an `Option` may be left out. In `.delay` and `.with`, a `String`
///   takes whatever turns into one.
/// - When the first parameter is `&Context`, the worker fills it in: it is no argument of the call.
/// - It returns a serializable value, nothing, or a `Result` of one. The error is a `TaskError`, any
///   `std::error::Error`, one that says with `Permanence` whether trying again helps, or whatever can be displayed.
///   A return type counts as `Result` when its last word is `Result`, as in `anyhow::Result<()>`.
/// - It is a free function, outside of any `impl`: no generics, no `self`, no borrowed arguments. What runs share, such as a
///   pool of connections, is made by a `#[setup]` function and taken with `ctx.state::<T>()`. The types of a public task are public.
///
/// # Options
///
#[doc = options::table::documentation!()]
///
/// Times are a number and a unit: `500ms`, `30s`, `10m`, `2h 30m`, `1day`.
///
/// # What is generated
///
/// The function becomes a unit struct of the same name, with its visibility and documentation, that implements
/// `Task` and has the methods above. It can be called because it dereferences to a function pointer. Like a
/// constant, it cannot be hidden by a local variable: a parameter or a `let` in the same module needs another name.
///
/// All tasks of the crates that are linked into a program are known to its worker.
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

/// Runs a function in each worker before it takes its first message, to prepare what the tasks share.
///
/// ```
/// use mq_worker::{Context, SharedState, setup, task};
///
/// struct Greeting(String);
///
/// #[setup]
/// async fn prepare(state: &mut SharedState) -> Result<(), std::env::VarError> {
///     // Here one opens the pool of database connections, the HTTP client, …
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
/// the worker with its text. It stays what it is otherwise, so that a test can call it. A program may have several:
/// they run in the order of their paths. `crate = "path"` says where `mq_worker` is found when it was renamed.
#[proc_macro_attribute]
pub fn setup(options: TokenStream, item: TokenStream) -> TokenStream {
    hook::SETUP.compile(options.into(), item.into()).into()
}

/// Calls a function in the worker when a task has failed for good: its message lies in the dead-letter queue.
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
/// dead letter: retries used up, a permanent error, a message that is no task, one that took its workers down. A program
/// may have several such functions: they run in the order of their paths.
///
/// It is called after the dead letter is safe and before the message is acknowledged: at least once, and again when the
/// worker dies in between. It can spoil nothing: an error, a panic, or taking longer than 30 seconds is written to the
/// log, and the message is acknowledged. `crate = "path"` says where `mq_worker` is found when it was renamed.
#[proc_macro_attribute]
pub fn on_failure(options: TokenStream, item: TokenStream) -> TokenStream {
    hook::ON_FAILURE.compile(options.into(), item.into()).into()
}
