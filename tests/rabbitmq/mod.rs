//! The RabbitMQ broker and its result backend against a real server.

mod consuming;
mod delays;
mod faults;
pub(crate) mod fixture;
mod late;
mod management;
mod publishing;
mod restored;
mod results;
mod tls;
mod walking;
