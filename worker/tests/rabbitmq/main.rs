//! The RabbitMQ broker and its result backend against a real server.
//!
//! `MQ_TEST_AMQP_URL` names a server that these tests may use as they like; without it they say that they were left
//! out. `MQ_TEST_AMQP_CTL`, a command that takes the arguments of `rabbitmqctl`, adds those that change the server.
#![cfg(feature = "amqp")]

mod consuming;
mod delays;
mod faults;
mod publishing;
mod results;
mod support;
