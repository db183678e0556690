//! The pages, one file each. They are rendered on the server, from a snapshot and the history.

pub(crate) mod activity;
pub(crate) mod broker;
pub(crate) mod chart;
pub(crate) mod dead;
pub(crate) mod layout;
pub(crate) mod letters;
pub(crate) mod login;
pub(crate) mod overview;
pub(crate) mod parts;
pub(crate) mod queue;
pub(crate) mod queues;
pub(crate) mod rates;
pub(crate) mod task;
pub(crate) mod tasks;
pub(crate) mod worker;
pub(crate) mod workers;

/// A form that sends nothing but the proof that it is ours.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct CsrfForm {
    pub(crate) csrf: Option<String>,
}
