//! A sign-up service. New users get a welcome e-mail and a text message; tasks send both, so that the sign-up
//! itself returns as soon as the two calls are stored in their queues.
//!
//! - [`user`]: the users who sign up
//! - [`mail`]: the task `send_email`, SMTP through `lettre`
//! - [`sms`]: the task `send_sms`, HTTP through `reqwest`
//! - [`outbox`]: the folder for mail and texts if no server is configured
//! - [`signup`]: what the web handler of a real service would do
//!
//! The rest is the demonstration: [`sinks`] are a mail server and an SMS gateway for one machine, [`demo`] signs
//! users up and runs the worker beside them, [`report`] checks what arrived.

pub mod demo;
pub mod mail;
pub mod outbox;
pub mod report;
pub mod signup;
pub mod sinks;
pub mod sms;
pub mod user;

pub use mail::{MailError, send_email};
pub use sms::{SmsError, send_sms};
pub use user::User;
