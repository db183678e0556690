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
pub(crate) mod schedule;
mod schedule_form;
pub(crate) mod schedules;
pub(crate) mod task;
pub(crate) mod tasks;
pub(crate) mod worker;
pub(crate) mod workers;
