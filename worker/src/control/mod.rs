//! Remote control in Celery's form: inspecting workers, and sending them commands.
//!
//! A client publishes a [`Command`] to one fanout exchange; every worker has a [`mailbox`] of its own on it,
//! and replies to the address that the command names. All of this is messages: it works on every broker, and
//! `celery inspect`, `celery status` and Flower see our workers as we see theirs.
//!
//! [`Control`] is the client. The worker's side, which acts on the commands, is `runtime::control`.

pub mod client;
pub mod clock;
pub mod command;
mod glob;
pub mod inspect;
pub mod mailbox;
pub mod methods;
pub(crate) mod registered;
pub mod reply;

pub use client::Control;
pub use clock::Clock;
pub use command::{Addressed, Command, ReplyTo};
pub use inspect::{FoundCalls, Running, WorkerInfo};
pub use mailbox::Mailbox;
#[cfg(feature = "cli")]
pub(crate) use registered::Registered;
pub use reply::Reply;
