//! The `#[task]` attribute of mq-worker. Use it through `mq_worker::task`.

use proc_macro::TokenStream;

/// Turns a function into a task.
#[proc_macro_attribute]
pub fn task(_options: TokenStream, item: TokenStream) -> TokenStream {
    item
}

/// Runs a function before the worker takes its first message.
#[proc_macro_attribute]
pub fn setup(_options: TokenStream, item: TokenStream) -> TokenStream {
    item
}
