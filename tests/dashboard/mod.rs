//! The management page, in a real browser and through its API.

pub(crate) mod api;
mod bad;
mod browser;
mod pictures;
mod rabbitmq;
mod schedules;
pub(crate) mod site;
