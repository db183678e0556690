//! The attributes of mq-worker: `#[task]`, `#[setup]` and `#[on_failure]`. Use them through `mq_worker`, where their
//! documentation starts with an example. (Examples here would need that crate as a dependency and build it twice.)
//!
//! A small compiler: `ast` is the input, `options` reads the options, `valid` checks, `expand` and `entry` generate code.
//! After mistakes, `fallback` generates an item that lets the compiler check the rest of the program.

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
#[doc = options::table::documentation!()]
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
            Some(task) => {
                valid::scheduled(&task, &options, &mut mistakes);
                expand::task(&task, &options)
            }
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

/// The function, `async` or plain, takes `&mut SharedState` and returns nothing or a `Result<(), E>`; an error stops
/// the worker with its text. It remains an ordinary function, so that a test can call it. A program may have several:
/// they run in the order of their paths. `crate = "path"` sets the path of `mq_worker` if it was renamed.
#[proc_macro_attribute]
pub fn setup(options: TokenStream, item: TokenStream) -> TokenStream {
    hook::SETUP.compile(options.into(), item.into()).into()
}

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
