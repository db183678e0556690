//! The scheduler process: `mq-worker beat`.

use std::process::ExitCode;

use mq_worker::App;

use super::broker::wrap;

/// Runs the scheduler until it receives a signal to stop.
pub(crate) fn main() -> ExitCode {
    App::builder().wrap_broker(wrap).install().expect("the control has set a good configuration");
    mq_worker::main()
}
