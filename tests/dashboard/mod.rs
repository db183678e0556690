//! The management page, in a real browser and through its API.

mod api;
mod browser;
mod pictures;
mod rabbitmq;
mod schedules;
mod site;
